"""Counts are plain numbers that are added to where something happens: there is one thread, and no lock."""

from __future__ import annotations

import time

from wfserve.measure.histogram import SECONDS, SIZES, Histogram
from wfserve.measure.recorded import Recorded

OUTCOMES = ("2xx", "4xx", "5xx", "gone")  # gone: the client was, before there was an answer


def status_class(status: int) -> str:
    """Return the outcome of a response; what is neither 2xx nor 4xx is a 5xx, as TorchServe counts."""
    if 200 <= status < 300:
        return "2xx"
    return "4xx" if 400 <= status < 500 else "5xx"


class ResponseCounts:
    """HTTP responses of all APIs, by class of their status."""

    __slots__ = ("by_class",)

    def __init__(self) -> None:
        self.by_class = dict.fromkeys(OUTCOMES[:3], 0)

    def count(self, status: int) -> None:
        """Count a response with `status`."""
        self.by_class[status_class(status)] += 1


class RequestCounts:
    """Requests of one workflow that have ended: how, and how long after their bodies had come (seconds)."""

    __slots__ = ("by_outcome", "time")

    def __init__(self) -> None:
        self.by_outcome = dict.fromkeys(OUTCOMES, 0)
        self.time = Histogram(SECONDS)

    def ended(self, outcome: str, seconds: float) -> None:
        """Count a request that ended `seconds` after it began."""
        self.by_outcome[outcome] += 1
        self.time.observe(seconds)


class NodeCounts:
    """What happened at one node. Times are seconds, moments those of the clock the caller goes by."""

    __slots__ = (
        *("batch_size", "busy", "copies", "ended_at", "latency", "load_times", "overhead", "queue_time"),
        *("recorded", "run_time", "started_at", "waited"),
    )

    def __init__(self, recorded: Recorded | None = None) -> None:
        self.queue_time = Histogram(SECONDS)  # of items in their first batch
        self.run_time = Histogram(SECONDS)  # of batches, from leaving for the worker to its answer
        self.batch_size = Histogram(SIZES)
        self.copies = 0  # made of items' inputs in the worker, on their way to the handler
        self.latency = 0.0  # from arrival to result, summed over items that have one
        self.started_at = self.ended_at = 0.0  # of the last batch that had waited, and that had travelled
        self.waited = 0.0  # the last item, in the queue
        self.busy = 0.0  # the worker, with the last batch
        self.overhead = 0.0  # what the last batch took longer than that
        self.load_times: dict[str, tuple[int, float]] = {}  # by replica: of which process, and how long
        self.recorded = recorded or Recorded()  # by the node's handler

    def batch_started(self, at: float, items: int, arrivals: list[float]) -> None:
        """Count a batch that left at `at`; `arrivals` are those of the items that had not run before."""
        self.batch_size.observe(items)
        for arrived in arrivals:
            self.started_at = at
            self.waited = at - arrived
            self.queue_time.observe(self.waited)

    def batch_ended(self, at: float, started: float, busy: float, recorded: bytes, copies: int) -> None:
        """Count a batch that was answered at `at`, and on which the worker was `busy`."""
        seconds = at - started
        self.run_time.observe(seconds)
        self.ended_at = at
        self.overhead = max(0.0, seconds - busy)
        self._worked(busy, recorded, copies)

    def batch_went_on(self, items: int, results: int, busy: float, recorded: bytes, copies: int) -> None:
        """Count a batch that was at the worker already, with the node before, and on which it was `busy`."""
        self.batch_size.observe(items)
        self.run_time.observe(busy)
        self.latency += busy * results
        self._worked(busy, recorded, copies)

    def _worked(self, busy: float, recorded: bytes, copies: int) -> None:
        self.busy = busy
        self.copies += copies
        if recorded:
            self.recorded.take(recorded)

    def replica_loaded(self, replica: str, pid: int, started: float) -> None:
        """Note how long a replica took to load since `started` (epoch), if its process is a new one."""
        if self.load_time(replica, pid) is None:
            self.load_times[replica] = pid, time.time() - started

    def load_time(self, replica: str, pid: int) -> float | None:
        """Return how long the replica's present process took to load, None if it has not."""
        process, seconds = self.load_times.get(replica, (0, 0.0))
        return seconds if process == pid else None
