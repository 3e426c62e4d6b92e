"""Results are written into extents the server lent, each frame once; the reply that names them comes last."""

from __future__ import annotations

import logging
import traceback
from typing import TYPE_CHECKING

from wfserve.child.fault import OUT_OF_RESOURCES, alone, sending_fault_of
from wfserve.errors import FrameError
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.frame import ALIGNMENT
from wfserve.transport.message import Fault, Ref, Reply, Value, encode_reply, reply_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.codec import Encoded
    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Result


log = logging.getLogger(__name__)


class Stopped(Exception):  # noqa: N818 - what happens, not what went wrong
    """The server wants the child to exit, and says so while the child waits for memory."""


class Extents:
    """Room for one batch's results: each piece starts at a multiple of `ALIGNMENT`, in the latest extent."""

    def __init__(self, link: ChildLink, tag: int, extent: Descriptor) -> None:
        self._link = link
        self._tag = tag
        self._first = extent
        self._open(extent)

    def _open(self, extent: Descriptor) -> None:
        self._extent = extent
        self._used = 0

    def reserve(self, nbytes: int) -> None:
        """See to it that pieces of `nbytes` together fit, as far as the server has memory."""
        if nbytes <= self._extent.length - self._used:
            return
        self._link.send(Message(MessageKind.GROW, self._tag, NOWHERE._replace(length=nbytes)))
        answer = self._link.receive()
        if answer.kind == MessageKind.STOP:
            raise Stopped
        if answer.kind != MessageKind.GRANT or answer.tag != self._tag:
            raise FrameError(f"{answer} is no answer to a request for memory")
        if answer.descriptor.length:
            self._open(answer.descriptor)

    def place(self, nbytes: int) -> Descriptor | None:
        """Take a piece, None if there is no room."""
        if nbytes > self._extent.length - self._used:
            return None
        piece = Descriptor(self._extent.segment, self._extent.offset + self._used, nbytes)
        self._used = min(self._used + aligned(nbytes), self._extent.length)
        return piece

    def start_over(self) -> None:
        """Give up everything placed so far."""
        self._open(self._first)


def aligned(nbytes: int) -> int:
    """Return `nbytes` rounded up to a multiple of `ALIGNMENT`."""
    return -(-nbytes // ALIGNMENT) * ALIGNMENT


def write_results(
    link: ChildLink, extents: Extents, outcomes: Sequence[tuple[Encoded, bytes] | Fault]
) -> list[Result]:
    """Write each frame that does not lie somewhere already. What finds no memory becomes a fault (507)."""
    frames = [outcome[0] for outcome in outcomes if not isinstance(outcome, Fault)]
    replies = reply_size(Reply(tuple(_sample(outcome) for outcome in outcomes)))
    extents.reserve(sum(aligned(each.nbytes) for each in frames if each.place is None) + replies)
    return [
        outcome if isinstance(outcome, Fault) else _write(link, extents, *outcome) for outcome in outcomes
    ]


def _sample(outcome: tuple[Encoded, bytes] | Fault) -> Result:
    return outcome if isinstance(outcome, Fault) else Value(Ref(outcome[0].header, NOWHERE), outcome[1])


def _write(link: ChildLink, extents: Extents, encoded: Encoded, response: bytes) -> Result:
    place = encoded.place
    if place is None:
        place = extents.place(encoded.nbytes)
        if place is None:
            return alone(OUT_OF_RESOURCES)
        try:
            encoded.write(link.map(place))
        except Exception as error:  # a device may report here what went wrong on it before
            log.error("a result cannot be written\n%s", traceback.format_exc())
            return sending_fault_of(error)
    return Value(Ref(encoded.header, place), response)


def write_reply(link: ChildLink, extents: Extents, reply: Reply) -> Descriptor:
    """Write the reply, if need be without metrics.

    Without room for it, every item becomes a fault (507), for which there is room.
    """
    extents.reserve(reply_size(reply))
    place = extents.place(reply_size(reply))
    if place is None:
        reply = reply._replace(ran=tuple(each._replace(metrics=b"") for each in reply.ran))
        place = extents.place(reply_size(reply))
    if place is None:
        reply = reply._replace(results=(alone(OUT_OF_RESOURCES),) * len(reply.results))
        extents.start_over()
        place = extents.place(reply_size(reply))
        if place is None:
            raise FrameError("the extent lent for results does not even hold the reply")
    return place._replace(length=encode_reply(reply, link.map(place)))
