"""One front end beside several: requests a second, and where the processor time of a request goes.

    python -m bench.front [--processes 1,2] [--connections 16,64,256] [--workloads "seq-native ..."]

All servers run side by side and are loaded in turn, round after round; a cell is the median of its rounds.
One front end ends where its share of a core is near 100 % while the workers' is not. On a machine with few
cores they, the workers and the load share them: then what several cost shows, and not what they are for.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from bench.load import Target, measure, tool
from bench.serve import Server, check_answer, children
from bench.workloads.build import NAMES, body, build

WARM_UP = 1.0  # seconds of load that are not measured
MICROSECONDS = 1e6


@dataclass(frozen=True, slots=True)
class Cell:
    """What one round found. Processor time is in microseconds a request."""

    rate: float
    p50_ms: float
    p99_ms: float
    fronts: float  # what answers on the inference port
    workers: float
    busiest: float  # share of a core that the busiest of the first has taken


def processor_seconds(pid: int) -> float:
    """Return the processor time that a process has taken, all of its threads together."""
    spent = 0.0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        spent += int((thread / "schedstat").read_text().split()[0]) / 1e9
    return spent


def fronts_of(server: Server) -> list[int]:
    """Return the processes that answer on the inference port."""
    found = [
        child
        for child in children(server.process.pid)
        if b"wfserve.front.process" in Path(f"/proc/{child}/cmdline").read_bytes()
    ]
    return found or [server.process.pid]


def measure_round(server: Server, target: Target, connections: int, seconds: float) -> Cell | None:
    """Return one round; None if an answer was an error."""
    fronts, workers = fronts_of(server), server.workers()
    measure(target, connections, WARM_UP)
    before = {pid: processor_seconds(pid) for pid in (*fronts, *workers)}
    found = measure(target, connections, seconds)
    spent = {pid: processor_seconds(pid) - start for pid, start in before.items()}
    if found.rate is None:
        return None
    each = MICROSECONDS / found.requests
    return Cell(
        found.rate,
        found.p50_ms,
        found.p99_ms,
        sum(spent[pid] for pid in fronts) * each,
        sum(spent[pid] for pid in workers) * each,
        max(spent[pid] for pid in fronts) / found.seconds,
    )


def median(cells: list[Cell]) -> Cell:
    """Return the median of each figure."""
    return Cell(*(statistics.median(getattr(cell, name) for cell in cells) for name in Cell.__slots__))


def show(name: str, connections: int, processes: int, cells: list[Cell | None]) -> None:
    """Print one line of the table."""
    good = [cell for cell in cells if cell is not None]
    if len(good) < len(cells):
        print(f"{name:12} {connections:>5} {processes:>5}    nothing", flush=True)
        return
    cell = median(good)
    print(
        f"{name:12} {connections:>5} {processes:>5} {cell.rate:>10,.0f}"
        f" {cell.p50_ms:>8.2f} {cell.p99_ms:>8.2f}"
        f" {cell.fronts:>9.1f} {cell.workers:>10.1f} {cell.busiest:>8.0%}",
        flush=True,
    )


def run(arguments: argparse.Namespace, store: Path, directory: Path) -> None:
    """Measure everything and print it as it comes."""
    print(f"load by {tool()}, {os.cpu_count()} cores, {arguments.rounds} rounds of {arguments.seconds:g} s")
    print(
        f"{'workload':12} {'conns':>5} {'procs':>5} {'req/s':>10} {'p50 ms':>8} {'p99 ms':>8}"
        f" {'fronts µs':>9} {'workers µs':>9} {'busiest':>8}"
    )
    for name in arguments.workloads:
        with ExitStack() as stack:
            servers = {}
            for processes in arguments.processes:
                place = directory / f"{name}-{processes}"
                place.mkdir()
                servers[processes] = stack.enter_context(
                    Server(place, store, name, processes=str(processes), job_queue_size="1024")
                )
                if not check_answer(servers[processes], name, store):
                    sys.exit(1)
            for connections in arguments.connections:
                rounds: dict[int, list[Cell | None]] = {processes: [] for processes in servers}
                for _ in range(arguments.rounds):
                    for processes, server in servers.items():
                        target = Target(server.inference, f"/wfpredict/{name}", body(name, store))
                        cell = measure_round(server, target, connections, arguments.seconds)
                        rounds[processes].append(cell)
                for processes, cells in rounds.items():
                    show(name, connections, processes, cells)


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--processes", type=_numbers, default=[1, 2], metavar="N,...")
    parser.add_argument("--connections", type=_numbers, default=[16, 64, 256], metavar="N,...")
    parser.add_argument("--workloads", type=str.split, default=[NAMES[0]], metavar="NAME ...")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=4.0, help="of each round (default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wfserve-bench-") as directory:
        store = Path(directory) / "store"
        store.mkdir()
        build(store)
        run(arguments, store, Path(directory))


if __name__ == "__main__":
    main()
