"""Arrivals are the requests whose bodies are still being received: a start stage's items that are coming."""

from __future__ import annotations

import itertools

from wfserve.scheduling.policy import Coming

FOLLOWED = 0.1  # weight of the latest body in the mean time that one takes to come


class Arrivals:
    """Bodies under way, and how long they take. Times are the caller's clock's."""

    def __init__(self) -> None:
        self._since: dict[int, float] = {}  # in order of beginning
        self._numbers = itertools.count()
        self._seconds = 0.0

    def begin(self, now: float) -> int:
        """Note that a body begins to come; return what `end` wants."""
        number = next(self._numbers)
        self._since[number] = now
        return number

    def end(self, number: int, now: float) -> None:
        """Note that a body has come, or will not."""
        self._seconds += FOLLOWED * (now - self._since.pop(number) - self._seconds)

    def coming(self, now: float) -> Coming:
        """Return how many there are, and when the oldest is expected."""
        if not self._since:
            return Coming()
        oldest = next(iter(self._since.values()))
        return Coming(len(self._since), oldest + self._seconds)
