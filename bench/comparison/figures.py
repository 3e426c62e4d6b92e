"""What was measured, as plain data: it is written as JSON, and read from it, without loss."""

from __future__ import annotations

import statistics
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

OURS = "wfserve"  # the way of our own runs


@dataclass(frozen=True, slots=True)
class Run:
    """One measurement of one server under one load; with an error, its numbers count as nothing."""

    peer: str  # which was measured in turns with wfserve
    way: str  # of the peer's, or OURS
    workload: str
    load: Literal["closed", "open"]
    connections: int
    setting: str
    offered: float | None  # requests a second, open loop
    rps: float | None
    p50_ms: float
    p99_ms: float
    errors: int
    late_ms: float = 0.0  # the client of an open loop, by itself, at the median


@dataclass(slots=True)
class Figures:
    """All of one comparison."""

    machine: dict[str, str] = field(default_factory=dict)
    versions: dict[str, dict[str, str]] = field(default_factory=dict)  # of a peer's environment, by its name
    missing: dict[str, str] = field(default_factory=dict)  # peers that were not measured, and why
    refused: list[dict[str, str]] = field(default_factory=list)  # peer, way, workload, why
    tried: list[Run] = field(default_factory=list)  # to find settings
    runs: list[Run] = field(default_factory=list)
    own: dict[str, Any] = field(default_factory=dict)  # our own rows: numbers by name

    def of(self, peer: str, way: str, workload: str, connections: int, load: str = "closed") -> list[Run]:
        """Return the runs of one cell that had no error."""
        cell = (peer, way, workload, connections, load)
        return [
            run
            for run in self.runs
            if (run.peer, run.way, run.workload, run.connections, run.load) == cell and run.rps is not None
        ]

    def median(self, key: str, *cell: Any) -> float | None:
        """Return the median of "rps", "p50_ms" or "p99_ms" over a cell's runs; None without runs."""
        values = [getattr(run, key) for run in self.of(*cell)]
        return statistics.median(values) if values else None

    def rate_ratio(self, peer: str, way: str, workload: str, connections: int) -> float | None:
        """Return our requests a second as a multiple of the peer's, of runs that took turns."""
        ours = self.median("rps", peer, OURS, workload, connections)
        theirs = self.median("rps", peer, way, workload, connections)
        return ours / theirs if ours and theirs else None

    def to_json(self) -> dict[str, Any]:
        """Return it as what JSON knows."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Figures:
        """Return what `to_json` was called on."""
        runs = {key: [Run(**run) for run in data[key]] for key in ("tried", "runs")}
        return cls(**(data | runs))
