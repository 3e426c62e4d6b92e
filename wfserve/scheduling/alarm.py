"""An Alarm wakes one task: when somebody rings it, and at the moment that it has been set to."""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import trio

if TYPE_CHECKING:
    from collections.abc import Callable


class Alarm:
    """Rung and set by plain calls, from any task, whether or not `attend` is running yet."""

    def __init__(self) -> None:
        self._bell = trio.Event()
        self._scope = trio.CancelScope()  # of `attend`, while it waits

    def ring(self) -> None:
        """Wake the task as soon as it can run."""
        self._bell.set()

    def no_later_than(self, moment: float) -> None:
        """Wake the task at `moment`, if it was not to be woken before."""
        if moment < self._scope.deadline:
            self._scope.deadline = moment

    async def attend(self, look: Callable[[], float]) -> NoReturn:
        """Call `look` now, whenever the bell has rung, and at the moment that it returned last."""
        while True:
            with trio.CancelScope() as self._scope:  # until its deadline: one a wake costs 4 µs
                while True:
                    self._bell = trio.Event()
                    moment = look()
                    if moment != self._scope.deadline:
                        self._scope.deadline = moment
                    await self._bell.wait()
