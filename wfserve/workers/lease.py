"""A Lease is the ledger's entry for one running batch: all that its child may touch, given back exactly once.

It shares the inputs (the walk may drop its own handles while the child still reads), and owns the slot of
the call and the extents lent for results. `end` returns all of it, whether the batch was answered or lost.

The child gets the items in the order in which their inputs lie in memory: neighbours are a batch without a
copy. Nobody else knows: outcomes are in the order of the items.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from wfserve import _native
from wfserve.errors import (
    BadRequestError,
    FrameError,
    InternalError,
    OutOfMemoryError,
    PredictionError,
    ServiceUnavailableError,
    WfserveError,
)
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind, new_tuple
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.message import (
    Divided,
    Fault,
    Form,
    Ref,
    Value,
    decode_passed,
    decode_reply,
    encode_call_head,
)
from wfserve.transport.publish import publish
from wfserve.workers.base import Done, Failed, Parts, Ran

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.transport.base import Arena, Lender, Loan, Payload
    from wfserve.transport.message import Result
    from wfserve.transport.progress import Progress
    from wfserve.workers.base import Item, Report

log = logging.getLogger(__name__)
SMALLEST_EXTENT = 4096
PLAIN = pack_header(Kind.BYTES, 0)  # of an input that is only kept: nobody reads it by this
REPLY_BYTES = 256  # of one item in the reply, with some padding between results


def smallest_extent(items: int) -> int:
    """Return the bytes that hold the reply of `items`, and little else: the child asks for more."""
    return max(SMALLEST_EXTENT, REPLY_BYTES * items)


class ResultSizes:
    """Learns how much room the results of one item take, so that an extent seldom has to grow."""

    def __init__(self) -> None:
        self._bytes_per_item = 1024.0

    def extent_for(self, items: int) -> int:
        """Return the bytes to lend for a batch of `items`: a quarter more than was seen, and the reply."""
        return max(smallest_extent(items), int(self._bytes_per_item * items * 1.25) + REPLY_BYTES * items)

    def learn(self, items: int, nbytes: int) -> None:
        """Follow a larger batch at once and smaller ones slowly (exponential decay of 2 % a batch)."""
        seen = nbytes / items
        self._bytes_per_item = max(seen, self._bytes_per_item * 0.98 + seen * 0.02)


class Lease:
    """What one batch holds in the arena. Raises `ServiceUnavailableError` if there is no room for it."""

    def __init__(
        self,
        arena: Arena,
        number: int,
        items: Sequence[Item],
        sizes: ResultSizes,
        for_results: Lender | None = None,  # None: the arena
    ) -> None:
        self._arena = arena
        self._for_results = for_results or arena
        self.number = number
        self._count = len(items)
        self._first, self._last, _, self._form = items[0].route
        self.ran: tuple[Ran, ...] = ()  # what the child says of its steps
        self.kept: list[Payload] = []  # inputs that the child still looks at after its answer
        self._sizes = sizes
        self._extents: list[Loan] = []  # where results may lie
        self._slot: Payload | None = None  # where the call lies
        self._inputs: list[Payload] = []
        self._headers: list[Payload] = []
        try:
            self.call = self._encode(items)
        except BaseException:
            self.end()
            raise

    def _encode(self, items: Sequence[Item]) -> Message:
        extent = self._lend_for_results(len(items))
        place = b"" if items[0].tenant is None else items[0].tenant.place
        body, self._order = _native.encode_items(items, self._inputs, self._headers)
        call = encode_call_head(len(items), extent, *items[0].route, place) + body
        self._slot = publish(self._arena, call)
        return Message(MessageKind.CALL, self.number, self._slot.descriptor)

    def _lend_for_results(self, items: int) -> Descriptor:
        try:
            return self._lend(self._sizes.extent_for(items))
        except ServiceUnavailableError:  # what was learned must not refuse a batch that may need less
            return self._lend(smallest_extent(items))

    def _lend(self, nbytes: int) -> Descriptor:
        loan = self._for_results.loan(nbytes)
        self._extents.append(loan)
        return loan.descriptor

    def grow(self, nbytes: int) -> Message:
        """Lend one more extent, or say that there is no memory."""
        try:
            extent = self._lend(max(nbytes, SMALLEST_EXTENT))
        except ServiceUnavailableError as refusal:
            log.warning("no memory for %d bytes of results: %s", nbytes, refusal)
            extent = NOWHERE
        return Message(MessageKind.GRANT, self.number, extent)

    def outcomes(self, reply: Descriptor) -> list[Report]:
        """Publish what the child wrote. Raises `FrameError` if it points anywhere it may not."""
        extent, start = self._find(reply)
        results, kept, ran = decode_reply(extent.buffer[start : start + reply.length])
        if len(results) != self._count or len(ran) > self._last - self._first + 1:
            raise FrameError(f"{len(results)} results of {len(ran)} steps for {self._count} items")
        done = _native.publish_values(results, self._extents, self._inputs, Value, Done)
        found = dict(zip(self._order, [*done, *map(self._outcome, results[len(done) :])], strict=True))
        outcomes = [found[number] for number in range(self._count)]
        self.kept = [self._publish(Ref(PLAIN, place)) for place in dict.fromkeys(kept)]
        self.ran = tuple([new_tuple(Ran, (busy_ns / 1e9, *more)) for busy_ns, *more in ran])
        self._learn(extent, start, reply.length)  # only now: lengths have been checked
        return outcomes

    def _learn(self, extent: Loan, start: int, length: int) -> None:
        """Learn what was written: all before the reply, and what that has more than it needs at least."""
        full = sum(each.descriptor.length for each in self._extents[: self._extents.index(extent)])
        self._sizes.learn(self._count, full + start + max(0, length - REPLY_BYTES * self._count))

    def _outcome(self, result: Result) -> Report:
        if isinstance(result, Value):
            return new_tuple(Done, (self._publish(result.ref), result.response))
        if isinstance(result, Divided):
            if self._form is not Form.DIVISIBLE or not result.parts:
                raise FrameError("an input was divided that was not to be")
            return Parts(tuple([self._publish(ref) for ref in result.parts]))
        if not self._first <= result.step <= self._last:
            raise FrameError(f"step {result.step} failed, of {self._first} to {self._last}")
        reached = None if result.reached is None else self._publish(result.reached)
        return Failed(_error_of(result), result.splittable, result.step, reached)

    def reached(self, seen: Progress) -> dict[int, Payload]:
        """Publish what a dead child left of the step it was at, by item.

        Raises `FrameError` if that points anywhere it may not.
        """
        if seen.passed is None:
            return {}
        extent, start = self._find(seen.passed)
        passed = decode_passed(extent.buffer[start : start + seen.passed.length])
        if any(item >= self._count for item, _ in passed):
            raise FrameError(f"more items have passed than the {self._count} there are")
        return {self._order[item]: self._publish(ref) for item, ref in passed}

    def _publish(self, ref: Ref) -> Payload:
        """Publish what the child wrote, or was given: a result may be an input, or a part of one."""
        payload = _native.publish_part(ref, self._extents, self._inputs)
        if payload is None:
            raise FrameError(f"{ref.descriptor} lies outside what was lent")
        return payload

    def _find(self, part: Descriptor) -> tuple[Loan, int]:
        for extent in self._extents:
            if _within(part, extent.descriptor):
                return extent, part.offset - extent.descriptor.offset
        raise FrameError(f"{part} lies outside what was lent")

    def end(self) -> None:
        """Give everything back; what was published lives on. Idempotent."""
        for payload in (*self._inputs, *self._headers):
            payload.release()
        for loan in self._extents:
            loan.release()
        if self._slot is not None:
            self._slot.release()
        self._inputs.clear()
        self._headers.clear()
        self._extents.clear()


def _within(part: Descriptor, whole: Descriptor) -> bool:
    return (
        part.segment == whole.segment
        and whole.offset <= part.offset
        and part.offset + part.length <= whole.offset + whole.length
    )


def _error_of(fault: Fault) -> WfserveError:
    if fault.kind == "PredictionException":
        return PredictionError(fault.message, code=fault.code)
    if fault.kind == BadRequestError.type:
        return BadRequestError(fault.message, code=fault.code)
    if fault.code == OutOfMemoryError.status:
        return OutOfMemoryError(fault.message)
    return InternalError(fault.message, code=fault.code)
