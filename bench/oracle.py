"""The p99 of our batching policy, against the least that one who knows all arrivals could have had.

Simulated, without processes: items arrive at one worker as a Poisson process, a batch of b takes α + β·b
seconds and cannot be interrupted, at most `limit` go together. `simulate` asks `policy.next_batch`, as a
stage does that knows what waits and what batches take, and of what is still to arrive nothing.

The oracle chooses among all ways to cut the arrivals, in their order, into batches, and to wait before any of
them. `oracle_p99` finds by bisection the least latency T for which one of them lets no more than 1 % of the
items take longer. For one T that is exact, by dynamic programming over (items served, items that took longer
than T): of all schedules that lead to a state, the one that leaves the worker free the earliest can do
whatever the others can. It does not reorder: it could only put off for ever those that it has given up.
"""

from __future__ import annotations

import statistics
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from wfserve.scheduling.cost import ENOUGH, Cost
from wfserve.scheduling.policy import Coming, Waiting, next_batch

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    Floats = NDArray[np.float64]

TAIL = 0.01  # of the items may take longer than p99
PRECISION = 0.002  # of p99, relative
LOADS = (0.3, 0.5, 0.7, 0.9)  # of what full batches could serve
LOAD = 0.7  # that the goal is about
ITEMS = 3000  # a simulation
SEEDS = range(3)
DELAY = 0.05  # seconds: max-batch-delay's default


class Server(NamedTuple):
    """What batches take: seconds a batch, seconds an item, items a batch at most."""

    alpha: float
    beta: float
    limit: int

    @classmethod
    def from_batches(cls, seconds: Mapping[int, float], limit: int) -> Server:
        """Return what a stage learns from batches that took `seconds`, by size."""
        cost = Cost()
        for _ in range(ENOUGH):
            for size, taken in seconds.items():
                cost.observe(size, taken, 0.0)
        return cls(cost.alpha, cost.beta, limit)

    def seconds(self, size: int) -> float:
        """Return what a batch of `size` takes."""
        return self.alpha + self.beta * size

    def arrivals(self, load: float, count: int, seed: int) -> Floats:
        """Return when `count` items arrive, at `load` of what full batches could serve."""
        rate = load * self.limit / self.seconds(self.limit)
        return np.cumsum(np.random.default_rng(seed).exponential(1 / rate, count))


# By name: a hop and little else, a GPU, a network whose batches half pay, one whose batches hardly do.
SERVERS = {
    "hop": Server(0.0003, 0.00002, 32),
    "gpu": Server(0.005, 0.0002, 32),
    "half": Server(0.005, 0.001, 16),
    "linear": Server(0.001, 0.0075, 16),
}


def learned(server: Server) -> Cost:
    """Return what a stage knows of a server after it has seen batches of all sizes."""
    cost = Cost()
    for _ in range(ENOUGH):
        for size in range(1, server.limit + 1):
            cost.observe(size, server.seconds(size), 0.0)
    return cost


def simulate(server: Server, arrivals: Floats, delay: float) -> Floats:
    """Return the latency of each item under our policy (seconds)."""
    cost, now, first = learned(server), 0.0, 0
    latencies = np.empty(len(arrivals))
    while first < len(arrivals):
        now = max(now, arrivals[first])
        waiting = int(np.searchsorted(arrivals, now, "right")) - first
        state = Waiting(waiting, arrivals[first], np.inf)
        size, until = next_batch(state, Coming(), cost, now, limit=server.limit, delay=delay)
        if not size:
            following = arrivals[first + waiting] if first + waiting < len(arrivals) else np.inf
            now = min(until, following)
            continue
        now += server.seconds(size)
        latencies[first : first + size] = now - arrivals[first : first + size]
        first += size
    return latencies


def p99(latencies: Floats) -> float:
    """Return what all but `TAIL` of the items have not exceeded."""
    return float(np.sort(latencies)[len(latencies) - 1 - tail(len(latencies))])


def tail(count: int) -> int:
    """Return how many of `count` items may take longer than p99."""
    return int(count * TAIL)


def oracle_p99(server: Server, arrivals: Floats, bound: float) -> float:
    """Return the least p99 that there is, if it is not over `bound`, which some schedule has reached."""
    low, high = server.seconds(1), bound
    while high > low * (1 + PRECISION):
        middle = (low + high) / 2
        low, high = (low, middle) if is_feasible(server, arrivals, middle) else (middle, high)
    return high


def is_feasible(server: Server, arrivals: Floats, most: float) -> bool:
    """Whether all but `TAIL` of the items can be served within `most` seconds each."""
    count, spare = len(arrivals), tail(len(arrivals))
    free = np.full((count + 1, spare + 1), np.inf)  # at the earliest; by items, and late ones
    free[0, 0] = 0.0
    late = np.arange(spare + 1)
    sizes = np.arange(1, server.limit + 1)[:, None]
    for first in range(count):
        size = sizes[: count - first]
        ends = np.maximum(free[first], arrivals[first : first + len(size), None])
        ends += server.alpha + server.beta * size
        behind = np.clip(np.searchsorted(arrivals, ends - most) - first, 0, size)
        reached = late + behind
        fine = (reached <= spare) & np.isfinite(ends)
        rows = np.broadcast_to(first + size, ends.shape)[fine]
        np.minimum.at(free, (rows, reached[fine]), ends[fine])
    return bool(np.isfinite(free[count]).any())


class Found(NamedTuple):
    """p99 under our policy and the oracle's (seconds), and ours as a multiple of it; medians of seeds."""

    ours: float
    oracle: float
    ratio: float


def compare(server: Server, load: float) -> Found:
    """Let both serve the same arrivals."""
    found = []
    for seed in SEEDS:
        arrivals = server.arrivals(load, ITEMS, seed)
        ours = p99(simulate(server, arrivals, DELAY))
        least = oracle_p99(server, arrivals, ours)
        found.append((ours, least, ours / least))
    return Found(*(statistics.median(each) for each in zip(*found, strict=True)))


def key_of(name: str, load: float) -> str:
    """Return what the figures of a server and a load end with."""
    return f"{name}_{load * 100:.0f}"


def figures(servers: Mapping[str, Server]) -> dict[str, float]:
    """Compare on each server at each load, and print it; the goal's figure is of the worst server."""
    numbers = {}
    loads = "".join(f"{f'load {load:g}':>23}" for load in LOADS)
    print(f"{'p99, oracle, ms':<16}{'α, ms':>8}{'β, ms':>8}{'limit':>6}{loads}")
    for name, server in servers.items():
        print(f"{name:<16}{server.alpha * 1e3:>8.2f}{server.beta * 1e3:>8.2f}{server.limit:>6}", end="")
        for load in LOADS:
            key, found = key_of(name, load), compare(server, load)
            ours, least = found.ours * 1e3, found.oracle * 1e3
            print(f"{ours:>9.2f}{least:>8.2f}{found.ratio:>5.2f}×", end="", flush=True)
            numbers[f"p99_ms_{key}"], numbers[f"p99_oracle_ms_{key}"] = ours, least
            numbers[f"p99_vs_oracle_{key}"] = found.ratio
        print()
    numbers["p99_vs_oracle"] = max(numbers[f"p99_vs_oracle_{key_of(name, LOAD)}"] for name in servers)
    return numbers
