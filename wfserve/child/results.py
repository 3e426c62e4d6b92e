"""Results are written into extents the server lent, each frame once; the reply that names them comes last."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING, Final

from wfserve import _native
from wfserve.child.fault import OUT_OF_RESOURCES, alone, sending_fault_of
from wfserve.errors import FrameError
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind, Ref, new_tuple
from wfserve.transport.frame import ALIGNMENT
from wfserve.transport.message import (
    Divided,
    Fault,
    Reply,
    Value,
    divided_size,
    encode_reply,
    reply_size,
    result_size,
    value_size,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.codec import Encoded
    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Result

    # A frame and what is said of the response, or a fault, or the parts of an input that was divided.
    Outcome = tuple[Encoded, bytes] | Fault | list[Encoded]

log = logging.getLogger(__name__)

EMPTY_REPLY_BYTES: Final = reply_size(Reply(()))


class Stopped(Exception):  # noqa: N818 - what happens, not what went wrong
    """The server wants the child to exit, and says so while the child waits for memory."""


class Extents:
    """Room for one batch's results, in the latest extent."""

    def __init__(self, link: ChildLink, tag: int, extent: Descriptor, ahead: list[Message]) -> None:
        """`ahead` is where a CALL is kept that comes before the memory that was asked for."""
        self._link = link
        self._tag = tag
        self._ahead = ahead
        self._first = extent
        self._open(extent)

    def _open(self, extent: Descriptor) -> None:
        self._extent = extent
        self._view = self._link.map(extent)
        self._filling = _native.LentExtent(self._view, extent.segment, extent.offset)

    def reserve(self, nbytes: int) -> None:
        """See to it that pieces of `nbytes` together fit, as far as the server has memory."""
        if self._filling.fits(nbytes):
            return
        self._link.send(Message(MessageKind.GROW, self._tag, NOWHERE._replace(length=nbytes)))
        answer = self._link.receive()
        while answer.kind == MessageKind.CALL:
            self._ahead.append(answer)
            answer = self._link.receive()
        if answer.kind == MessageKind.STOP:
            raise Stopped
        if answer.kind != MessageKind.GRANT or answer.tag != self._tag:
            raise FrameError(f"{answer} is no answer to a request for memory")
        if answer.descriptor.length:
            self._open(answer.descriptor)

    def put(self, encoded: Encoded) -> Ref | None:
        """Write a frame; None if there is no room."""
        if encoded.source is not None:
            return self._filling.put(encoded.header, encoded.nbytes, encoded.source)
        place = self._filling.place(encoded.nbytes, encoded.header)
        if place is None:
            return None
        encoded.write(self.view(place))
        return Ref(encoded.header, place)

    def place(self, nbytes: int) -> Descriptor | None:
        """Take a piece; None if there is no room."""
        return self._filling.place(nbytes)

    def view(self, place: Descriptor) -> memoryview:
        """Return what to write a piece to that was taken last."""
        start = place.offset - self._extent.offset
        return self._view[start : start + place.length]

    def start_over(self) -> None:
        """Give up everything placed so far."""
        self._open(self._first)


def write_results(extents: Extents, outcomes: Sequence[Outcome]) -> list[Result]:
    """Write each frame that does not lie somewhere already. What finds no memory becomes a fault (507)."""
    extents.reserve(sum(map(_room, outcomes)) + EMPTY_REPLY_BYTES)
    return [_result(extents, outcome) for outcome in outcomes]


def write_result(extents: Extents, outcome: Outcome) -> Result:
    """Write one outcome, as `write_results` does."""
    if isinstance(outcome, (Fault, list)):
        return write_results(extents, (outcome,))[0]
    encoded, response = outcome
    if encoded.place is None:
        extents.reserve(encoded.nbytes)
    ref = _write(extents, encoded)
    return ref if isinstance(ref, Fault) else new_tuple(Value, (ref, response))


def _room(outcome: Outcome) -> int:
    """Return what an outcome takes of the extent at most: its frames, and its entry in the reply."""
    if isinstance(outcome, Fault):
        return result_size(outcome)
    if isinstance(outcome, list):
        return sum(map(_frame_room, outcome)) + divided_size(len(outcome))
    return _frame_room(outcome[0]) + value_size(outcome[1])


def _frame_room(encoded: Encoded) -> int:
    return -(-encoded.nbytes // ALIGNMENT) * ALIGNMENT if encoded.place is None else 0


def _result(extents: Extents, outcome: Outcome) -> Result:
    if isinstance(outcome, Fault):
        return outcome
    if not isinstance(outcome, list):
        encoded, response = outcome
        ref = _write(extents, encoded)
        return ref if isinstance(ref, Fault) else new_tuple(Value, (ref, response))
    refs: list[Ref] = []
    for part in outcome:
        ref = _write(extents, part)
        if isinstance(ref, Fault):
            return ref
        refs.append(ref)
    return Divided(tuple(refs))


def _write(extents: Extents, encoded: Encoded) -> Ref | Fault:
    if encoded.place is not None:
        return new_tuple(Ref, (encoded.header, encoded.place))
    try:
        ref = extents.put(encoded)
    except Exception as error:  # a device may report here what went wrong on it before
        log.error("a result cannot be written\n%s", traceback.format_exc())
        return sending_fault_of(error)
    return alone(OUT_OF_RESOURCES) if ref is None else ref


def write_reply(extents: Extents, reply: Reply) -> Descriptor:
    """Write the reply, if need be without metrics.

    Without room for it, every item becomes a fault (507), for which there is room.
    """
    size = reply_size(reply)
    extents.reserve(size)
    place = extents.place(size)
    if place is None:
        reply = reply._replace(ran=tuple(each._replace(metrics=b"") for each in reply.ran))
        place = extents.place(reply_size(reply))
    if place is None:
        reply = reply._replace(results=(alone(OUT_OF_RESOURCES),) * len(reply.results))
        extents.start_over()
        place = extents.place(reply_size(reply))
        if place is None:
            raise FrameError("the extent lent for results does not even hold the reply")
    return Descriptor(place.segment, place.offset, encode_reply(reply, extents.view(place)))
