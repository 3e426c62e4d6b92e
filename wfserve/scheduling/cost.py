"""A Cost is what a batch of any size takes, l(b) = α + β·b, learned from batches as they end.

Least squares over (size, seconds), older batches forgotten exponentially; α and β are never negative. Where
all batches had one size, nothing tells α from β, and others are taken to cost in proportion.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from typing import Final

MEMORY: Final = 0.98  # what is left of a batch's weight after the next: the last 50 count
RELEVANT: Final = 10.0  # seconds after which a third of a weight is left, however few batches there were
ENOUGH: Final = 32  # batches, before anything is refused, or made to wait, because of what was learned
MOST_SHAPES: Final = 64  # that are told apart


class Cost:
    """What batches of one kind take (seconds)."""

    __slots__ = (
        "_sizes",
        "_squares",
        "_times",
        "_weight",
        "_weighted",
        "alpha",
        "apart",
        "beta",
        "last",
        "samples",
    )

    def __init__(self) -> None:
        self._weight = self._sizes = self._squares = self._times = self._weighted = 0.0
        self.alpha = 0.0  # seconds a batch
        self.beta = 0.0  # seconds an item
        self.apart = False  # the two are told apart: there were batches of several sizes
        self.samples = 0  # batches seen
        self.last = float("-inf")  # when the last was, on the caller's clock

    @property
    def known(self) -> bool:
        """Whether enough was seen to decide by it."""
        return self.samples >= ENOUGH

    def observe(self, size: int, seconds: float, now: float) -> None:
        """Take note of a batch of `size` items that has taken `seconds`."""
        kept = MEMORY * math.exp((self.last - now) / RELEVANT)
        self.samples += 1
        self.last = now
        self._weight = self._weight * kept + 1
        self._sizes = self._sizes * kept + size
        self._squares = self._squares * kept + size * size
        self._times = self._times * kept + seconds
        self._weighted = self._weighted * kept + size * seconds
        self._fit()

    def _fit(self) -> None:
        mean_size, mean = self._sizes / self._weight, self._times / self._weight
        spread = self._squares / self._weight - mean_size * mean_size
        self.apart = spread >= 1e-3 * mean_size * mean_size
        if not self.apart:
            self.alpha, self.beta = 0.0, mean / mean_size
            return
        slope = (self._weighted / self._weight - mean_size * mean) / spread
        self.beta = min(max(slope, 0.0), mean / mean_size)
        self.alpha = mean - self.beta * mean_size

    def of(self, size: int) -> float:
        """Return the seconds that a batch of `size` is expected to take; 0 as long as none was seen."""
        return self.alpha + self.beta * size

    def most_within(self, seconds: float) -> int:
        """Return the largest batch that is expected to end within `seconds`; 0 if none is."""
        if self.of(1) > seconds:
            return 0
        return int((seconds - self.alpha) / self.beta) if self.beta > 0 else 2**31


class Costs:
    """What batches take by what they are of: a shape, a step. Those seen longest ago are forgotten."""

    def __init__(self) -> None:
        self._by_kind: OrderedDict[object, Cost] = OrderedDict()

    def most(self, size: int) -> float:
        """Return what a batch of `size` takes of the kind that takes longest."""
        return max([cost.of(size) for cost in self._by_kind.values()], default=0.0)

    def of(self, kind: object) -> Cost:
        """Return what batches of one kind take."""
        found = self._by_kind.get(kind)
        if found is None:
            found = self._by_kind[kind] = Cost()
            if len(self._by_kind) > MOST_SHAPES:
                self._by_kind.popitem(last=False)
        else:
            self._by_kind.move_to_end(kind)
        return found
