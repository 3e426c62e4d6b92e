"""An input of many rows is run in parts, side by side, and put together again: all of it or nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import trio

from wfserve.errors import WfserveError
from wfserve.identity import new_uuid
from wfserve.workers.base import Done, Failed, Form

if TYPE_CHECKING:
    from wfserve.transport.base import Payload
    from wfserve.workers.base import Item, Outcome, Parts, Report


class Attempt(Protocol):
    """Runs one item."""

    async def __call__(self, item: Item) -> Report:
        """Return what became of it. Raises `ServiceUnavailableError`."""


async def in_parts(item: Item, parts: Parts, attempt: Attempt, *, at_once: int) -> Outcome:
    """Return what `item` becomes, whose input has been divided; up to `at_once` parts run or wait at a time.

    Takes the parts over. The first that fails ends the others, and is what becomes of the item. Raises what
    an attempt raises.
    """
    errand = _Errand(item, parts, attempt)
    try:
        return await errand.run(at_once)
    finally:
        errand.release()


class _Errand:
    def __init__(self, item: Item, parts: Parts, attempt: Attempt) -> None:
        self._item = item
        self._parts = parts
        self._attempt = attempt
        self._left = enumerate(parts.payloads)
        self._done: dict[int, Done] = {}
        self._failed: Failed | WfserveError | None = None

    async def run(self, at_once: int) -> Outcome:
        async with trio.open_nursery() as nursery:
            for _ in range(min(at_once, len(self._parts.payloads))):
                nursery.start_soon(self._run_some, nursery.cancel_scope)
        if isinstance(self._failed, WfserveError):
            raise self._failed
        if self._failed is not None:
            return self._failed
        results = tuple((number, self._done[number].payload) for number in range(len(self._done)))
        return self._final(await self._attempt(self._made(results, Form.JOINED)))

    async def _run_some(self, scope: trio.CancelScope) -> None:
        for number, payload in self._left:
            try:
                report = await self._attempt(self._made(((0, payload),), Form.PART))
            except WfserveError as error:
                self._failed = self._failed or error
            else:
                outcome = self._final(report)
                if isinstance(outcome, Done):
                    self._done[number] = outcome
                    continue
                self._failed = self._failed or outcome
            scope.cancel()

    def _made(self, inputs: tuple[tuple[int, Payload], ...], form: Form) -> Item:
        return replace(self._item, request_id=new_uuid(), inputs=inputs, form=form, reached=None)

    def _final(self, report: Report) -> Outcome:
        assert isinstance(report, Done | Failed)  # only a divisible item is divided
        return report

    def release(self) -> None:
        self._parts.release()
        for done in self._done.values():
            done.release()
