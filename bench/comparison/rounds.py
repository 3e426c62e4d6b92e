"""wfserve and one peer take turns under each load (A B C A B C …): what else the machine does falls on all.

Before, each way of the peer is tried in each of its settings, and the best one for each load is taken.
wfserve is one running server with all workloads, in one setting.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from bench.comparison import openloop
from bench.comparison.figures import OURS, Figures, Run
from bench.load import Measurement, Target, measure
from bench.peers.base import SETTINGS, Peer, Setting, Task, body
from bench.peers.running import Service, ServiceError
from bench.serve import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

WARM_UP = 1.0  # seconds of load that are not measured, before a server's first turn
OUR_SETTING = "as always"


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured, and for how long."""

    workloads: Sequence[str]
    connections: Sequence[int]
    seconds: float  # of a turn
    rounds: int
    trial: float  # seconds of each try of a setting
    settings: Sequence[Setting] = SETTINGS  # that are tried


@dataclass(frozen=True, slots=True)
class Contestant:
    """A server that is up, and where it takes one workload."""

    way: str
    target: Target
    setting: str


@dataclass(frozen=True, slots=True)
class Contest:
    """A peer against wfserve, which listens on `port`, on the workloads in `store`."""

    peer: Peer
    python: Path
    store: Path
    port: int
    plan: Plan
    figures: Figures

    def run(self) -> None:
        """Measure all workloads of the plan that the peer can do."""
        for workload in self.plan.workloads:
            best = {way: found for way in self.peer.ways if (found := self._best(way, workload))}
            for connections in self.plan.connections if best else ():
                self._take_turns(workload, connections, {way: best[way][connections] for way in best})

    def _best(self, way: str, workload: str) -> dict[int, Setting]:
        """Return the best setting for each number of connections; nothing if the peer cannot do it."""
        if why := self.peer.refuses(way, workload):
            self._refuse(way, workload, why)
            return {}
        found: dict[int, list[tuple[float, Setting]]] = {n: [] for n in self.plan.connections}
        for setting in self.plan.settings:
            for connections, rate in self._try(way, workload, setting):
                found[connections].append((rate, setting))
        if not all(found.values()):
            self._refuse(way, workload, "no setting went without errors")
            return {}
        return {n: max(tries, key=lambda each: each[0])[1] for n, tries in found.items()}

    def _try(self, way: str, workload: str, setting: Setting) -> Iterator[tuple[int, float]]:
        """Yield numbers of connections with the requests a second they got."""
        try:
            with self._service(way, workload, setting) as contestant:
                for connections in self.plan.connections:
                    measured = under_load(contestant.target, connections, self.plan.trial)
                    run = self._run(contestant, workload, connections, "closed", measured)
                    self.figures.tried.append(run)
                    if run.rps is not None:
                        yield connections, run.rps
        except ServiceError as error:
            self._refuse(way, workload, f"{setting}: {error}")

    def _take_turns(self, workload: str, connections: int, best: Mapping[str, Setting]) -> None:
        with ExitStack() as stack:
            up = [Contestant(OURS, self._our_target(workload), OUR_SETTING)]
            for way, setting in best.items():
                try:
                    up.append(stack.enter_context(self._service(way, workload, setting)))
                except ServiceError as error:
                    self._refuse(way, workload, f"{setting}: {error}")
            for each in up:
                under_load(each.target, connections, WARM_UP)
            for _ in range(self.plan.rounds):
                for each in up:
                    measured = under_load(each.target, connections, self.plan.seconds)
                    self._keep(self._run(each, workload, connections, "closed", measured))
            if connections == max(self.plan.connections):
                self._open_loop(workload, connections, up)

    def _open_loop(self, workload: str, connections: int, up: Sequence[Contestant]) -> None:
        """Each at half of what it did at `connections`."""
        for _ in range(self.plan.rounds):
            for each in up:
                full = self.figures.median("rps", self.peer.name, each.way, workload, connections)
                if full is not None:
                    found = openly(each.target, full / 2, self.plan.seconds)
                    run = self._run(each, workload, connections, "open", found.measured)
                    self._keep(replace(run, offered=full / 2, late_ms=found.late_ms))

    @contextmanager
    def _service(self, way: str, workload: str, setting: Setting) -> Iterator[Contestant]:
        """A server of the peer's. Raises `ServiceError`."""
        with tempfile.TemporaryDirectory(prefix="peer-", ignore_cleanup_errors=True) as scratch:
            task = Task(way, workload, setting, self.store, Path(scratch), free_ports(1)[0])
            with Service(self.peer, self.python, task) as service:
                file = self.peer.body(workload, self.store)
                yield Contestant(way, Target(task.port, service.launch.path, file), str(setting))

    def _our_target(self, workload: str) -> Target:
        return Target(self.port, f"/wfpredict/{workload}", body(workload, self.store))

    def _run(
        self,
        contestant: Contestant,
        workload: str,
        connections: int,
        load: Literal["closed", "open"],
        measured: Measurement,
    ) -> Run:
        numbers = (measured.rate, measured.p50_ms, measured.p99_ms, measured.errors)
        cell = (self.peer.name, contestant.way, workload, load, connections)
        return Run(*cell, contestant.setting, None, *numbers)

    def _keep(self, run: Run) -> None:
        self.figures.runs.append(run)
        rate = "nothing" if run.rps is None else f"{run.rps:,.0f}"
        where = f"{run.workload:12} {run.load:6} {run.connections:>3}  {run.way:14} {run.setting:20}"
        print(f"{where} {rate:>9}/s  p50 {run.p50_ms:8.2f}  p99 {run.p99_ms:8.2f} ms", flush=True)

    def _refuse(self, way: str, workload: str, why: str) -> None:
        print(f"{workload}: {self.peer.name} {way}: {why}", file=sys.stderr, flush=True)
        refused = {"peer": self.peer.name, "way": way, "workload": workload, "why": why}
        self.figures.refused.append(refused)


def under_load(target: Target, connections: int, seconds: float) -> Measurement:
    """Return a closed-loop measurement; one that did not come to an end is an error."""
    try:
        return measure(target, connections, seconds)
    except subprocess.SubprocessError as error:
        return _nothing(error)


def openly(target: Target, rate: float, seconds: float) -> openloop.OpenMeasurement:
    """Return an open-loop measurement; one that did not come to an end is an error."""
    try:
        return openloop.measure(target, rate, seconds)
    except subprocess.SubprocessError as error:
        return openloop.OpenMeasurement(_nothing(error), 0.0)


def _nothing(error: Exception) -> Measurement:
    print(error, file=sys.stderr)
    return Measurement(0, 0.0, 1, 0.0, 0.0)
