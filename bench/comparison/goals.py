"""The goals of wfserve's speed: each is a number worked out from `Figures`, with what it is to reach."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from bench.comparison.figures import OURS, Figures

if TYPE_CHECKING:
    from collections.abc import Iterable

Value = Callable[[Figures], float | None]
Cell = tuple[str, str, str]  # peer, way, workload
LOADS = (16, 64)  # connections
TAIL_LOAD = 64  # connections at which the capacity is taken whose half is offered in the open loop


@dataclass(frozen=True, slots=True)
class Goal:
    """A row of the table."""

    text: str
    unit: str
    value: Value  # None: not measured
    reach: float
    stretch: float | None = None
    at_least: bool = True  # else at most

    def verdict(self, figures: Figures) -> str:
        """Return what has become of it."""
        value = self.value(figures)
        if value is None:
            return "not measured"
        if self.stretch is not None and self._meets(value, self.stretch):
            return "reached, stretch too"
        return "reached" if self._meets(value, self.reach) else "**missed**"

    def _meets(self, value: float, bound: float) -> bool:
        return value >= bound if self.at_least else value <= bound


def rate(peer: str, way: str, workload: str, connections: int) -> Value:
    """Return our rate as a multiple of a peer's."""
    return lambda figures: figures.rate_ratio(peer, way, workload, connections)


def latency(peer: str, ways: Iterable[str], workload: str) -> Value:
    """Return our p50 at one connection as a multiple of the best of a peer's ways."""

    def value(figures: Figures) -> float | None:
        ours = figures.median("p50_ms", peer, OURS, workload, 1)
        theirs = [figures.median("p50_ms", peer, way, workload, 1) for way in ways]
        known = [each for each in theirs if each is not None]
        return ours / min(known) if ours is not None and known else None

    return value


def tail(peer: str, workload: str) -> Value:
    """Return our p99 as a multiple of our p50, open loop, at half of capacity.

    What takes longer than a full load's p50 was not at half of capacity: the machine was busy otherwise.
    Queues make the ratio small then; so it counts as not measured.
    """

    def value(figures: Figures) -> float | None:
        cell = (peer, OURS, workload, TAIL_LOAD)
        full = figures.median("p50_ms", *cell)
        p50, p99 = (figures.median(key, *cell, "open") for key in ("p50_ms", "p99_ms"))
        return p99 / p50 if full and p50 and p99 is not None and p50 <= full else None

    return value


def own(name: str) -> Value:
    """Return a number of our own rows."""
    return lambda figures: figures.own.get(name)


def at_least(text: str, value: Value, reach: float, stretch: float | None = None, unit: str = "×") -> Goal:
    """Return a goal whose number is the better the greater it is."""
    return Goal(text, unit, value, reach, stretch)


def at_most(text: str, value: Value, reach: float, stretch: float | None = None, unit: str = "×") -> Goal:
    """Return a goal whose number is the better the smaller it is."""
    return Goal(text, unit, value, reach, stretch, at_least=False)


def against(cell: Cell, loads: Iterable[int], reach: float, stretch: float | None = None) -> list[Goal]:
    """Return goals of our rate as a multiple of a peer's, one for each number of connections."""
    peer, way, workload = cell
    return [
        at_least(f"{workload}, {n} connections, rate by {peer} {way}", rate(*cell, n), reach, stretch)
        for n in loads
    ]


_WAYS = ("staged", "fused")
GOALS = (
    *against(("mosec", "staged", "seq-native"), LOADS, 1.5),
    *against(("mosec", "fused", "seq-native"), LOADS, 0.6, 1.0),
    at_most(
        "seq-native, 1 connection, p50 by the best mosec", latency("mosec", _WAYS, "seq-native"), 1.3, 1.0
    ),
    *against(("mosec", "staged", "img-native"), (16,), 6),
    *against(("mosec", "fused", "img-native"), (16,), 1.4, 2),
    at_most("img-native, 1 connection, p50 by the best mosec", latency("mosec", _WAYS, "img-native"), 0.6),
    *against(("torchserve", "workflow", "seq-bytes"), LOADS, 40, 80),
    *against(("torchserve", "workflow", "img-bytes"), LOADS, 40, 80),
    *against(("mosec", "staged", "seq-bytes"), (64,), 1.0),
    *against(("mosec", "staged", "img-bytes"), (16,), 1.5),
    at_most("seq-native, half of capacity, open loop, p99 by p50", tail("mosec", "seq-native"), 3),
    at_least("empty ASGI application, rate by hypercorn", own("asgi_vs_hypercorn"), 8),
    at_least("empty ASGI application, rate by uvicorn", own("asgi_vs_uvicorn"), 0.6, 0.8),
    at_most("one more worker, proportional memory", own("worker_mb"), 45, unit=" MB"),
    at_most("registering seq-native", own("register_s"), 0.3, unit=" s"),
    at_most("10,000 idle connections: p50 of seq-native by that without", own("idle_p50"), 1.2),
    at_most("10,000 idle connections: memory of one", own("idle_kb"), 20, unit=" KB"),
    at_most("500 registered workflows: p50 of seq-native by that without", own("workflows_p50"), 1.2),
    at_most("chain, not fused: a node more of 32 by one of 8 (linear: 1)", own("chain_growth"), 1.25),
    at_most("chain of 32 nodes: fused by not fused", own("chain_fused"), 0.15),
)
