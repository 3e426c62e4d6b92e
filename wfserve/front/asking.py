"""A question to another process is answered, or given up after some time: nobody waits for ever."""

from __future__ import annotations

import itertools
from typing import TYPE_CHECKING

import trio

from wfserve.front.messages import Ask

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.front.messages import Answer, Question

PATIENCE = 2.0  # seconds


class Questions:
    """What was asked of one process, which hears what is given to `send`, and has not been answered."""

    def __init__(self, send: Callable[[Ask], None]) -> None:
        self._send = send
        self._tickets = itertools.count(1)
        self._open: dict[int, trio.Event] = {}
        self._values: dict[int, object] = {}

    async def ask(self, what: Question) -> object:
        """Return the answer, None if there is none within `PATIENCE`."""
        ticket, answered = next(self._tickets), trio.Event()
        self._open[ticket] = answered
        try:
            self._send(Ask(ticket, what))
            with trio.move_on_after(PATIENCE):
                await answered.wait()
            return self._values.pop(ticket, None)
        finally:
            del self._open[ticket]

    def hear(self, answer: Answer) -> None:
        """Give an answer to whoever waits for it, if anybody does."""
        if answer.ticket in self._open:
            self._values[answer.ticket] = answer.value
            self._open[answer.ticket].set()
