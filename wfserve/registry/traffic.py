"""A Split says which version answers a request that names none: by weight, and the same for equal headers."""

from __future__ import annotations

import random
from bisect import bisect_right
from hashlib import blake2b
from itertools import accumulate
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

_POINTS = 1 << 64


class Split:
    """The weights of several versions, as intervals of a line."""

    def __init__(self, weights: Mapping[str, float], sticky_header: str | None = None) -> None:
        """Divide by `weights`, at least one, all positive; the header's name is in lower case."""
        self._versions = tuple(weights)
        self._ends = list(accumulate(weights.values()))
        self._header = None if sticky_header is None else sticky_header.encode()

    def pick(self, headers: Iterable[tuple[bytes, bytes]]) -> str:
        """Return the version for a request with `headers`, whose names are in lower case.

        Equal values of the sticky header get the same as long as the weights stay; without it, chance picks.
        """
        for name, value in headers if self._header is not None else ():
            if name == self._header:
                return self.at(int.from_bytes(blake2b(value, digest_size=8).digest()) / _POINTS)
        return self.at(random.random())

    def at(self, point: float) -> str:
        """Return the version at `point` of the line, from 0 up to 1."""
        return self._versions[bisect_right(self._ends, point * self._ends[-1], hi=len(self._ends) - 1)]
