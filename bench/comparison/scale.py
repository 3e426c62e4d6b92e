"""Rows about wfserve alone: a server of their own, what it holds, and how fast it is beside that.

Each comparison of "with" and "without" takes turns within one server: without, with, without.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

from bench.load import Target, measure
from bench.peers.base import body
from bench.peers.keeper import descendants
from bench.serve import Server, memory
from wfserve.archive.pack import WorkflowArchiveOptions, pack_workflow

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

NAME = "seq-native"
CONNECTIONS = 16  # of the load beside what is held
IDLE = 10_000  # connections
WORKFLOWS = 500
WORKERS = 4  # more than the one there was
REGISTRATIONS = 5
_MB, _KB = 1e6, 1e3
_MIB = 2**20
# Two models, since a function always has a worker; `min-workers: 0` is none until the model is scaled.
_HELD = """\
models:
  min-workers: 0
  max-workers: 0
  m1: {url: double.mar}
  m2: {url: double.mar}
dag:
  m1: [m2]
"""


def run(server: Server, store: Path, seconds: float) -> dict[str, float]:
    """Return all rows; the server has the workflow, and no other load."""
    figures = {"register_s": registering(server)}
    target = Target(server.inference, f"/wfpredict/{NAME}", body(NAME, store))
    measure(target, CONNECTIONS, seconds)  # warm-up
    figures["worker_mb"] = worker(server, target)
    figures |= idle(server, target, seconds)
    figures |= workflows(server, target, store, seconds)
    for name, value in figures.items():
        print(f"{name:20} {value:.3f}", flush=True)
    return figures


def registering(server: Server) -> float:
    """Return the median seconds a registration takes."""
    return statistics.median(_register_anew(server) for _ in range(REGISTRATIONS))


def _register_anew(server: Server) -> float:
    server.call("DELETE", server.management, f"/workflows/{NAME}")
    return server.register(NAME)


def worker(server: Server, target: Target) -> float:
    """Return the megabytes, proportional, by which everything grows for one more worker that has served."""
    before = _memory(server)
    query = f"min_worker={1 + WORKERS}&max_worker={1 + WORKERS}&synchronous=true"
    server.call("PUT", server.management, f"/models/{NAME}__m1?{query}")
    measure(target, CONNECTIONS, 1)
    grown = _memory(server) - before
    _register_anew(server)  # the model had been given workers of its own
    return grown / WORKERS / _MB


def _memory(server: Server) -> float:
    """Return the bytes of all processes of the server, shared ones counted once."""
    pids = {server.process.pid} | descendants(server.process.pid)
    return sum(memory(pid)["pss_mib"] for pid in pids) * _MIB


def idle(server: Server, target: Target, seconds: float) -> dict[str, float]:
    """Return what `IDLE` connections cost: the ratio of p50 with to without them, and kilobytes of each."""
    without = measure(target, CONNECTIONS, seconds).p50_ms
    before = memory(server.process.pid)["pss_mib"]
    with _idle(server.inference):
        grown = memory(server.process.pid)["pss_mib"] - before
        held = measure(target, CONNECTIONS, seconds).p50_ms
    without = (without + measure(target, CONNECTIONS, seconds).p50_ms) / 2
    return {"idle_p50": held / without, "idle_kb": grown * _MIB / IDLE / _KB}


@contextmanager
def _idle(port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "bench.comparison.idle", str(port), str(IDLE)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as holder:
        assert holder.stdout is not None
        try:
            if holder.stdout.readline() != b"open\n":
                raise ConnectionError("the idle connections could not be opened")
            yield
        finally:
            holder.terminate()


def workflows(server: Server, target: Target, store: Path, seconds: float) -> dict[str, float]:
    """Return what `WORKFLOWS` more cost: the ratio of p50 with to without them, and milliseconds of each."""
    _pack(store)
    without = measure(target, CONNECTIONS, seconds).p50_ms
    names = [f"held-{number}" for number in range(WORKFLOWS)]
    began = time.perf_counter()
    for name in names:
        server.call("POST", server.management, f"/workflows?url=held.war&workflow_name={name}", b"")
    registered = time.perf_counter() - began
    held = measure(target, CONNECTIONS, seconds).p50_ms
    for name in names:
        server.call("DELETE", server.management, f"/workflows/{name}")
    without = (without + measure(target, CONNECTIONS, seconds).p50_ms) / 2
    return {"workflows_p50": held / without, "workflow_ms": registered * 1e3 / WORKFLOWS}


def _pack(store: Path) -> None:
    spec = store / "held.yaml"
    spec.write_text(_HELD)
    pack_workflow(WorkflowArchiveOptions("held", spec, export_path=store, force=True))
