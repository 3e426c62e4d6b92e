"""Requests a second of a whole server over HTTP, its start, its registrations and a worker's memory.

    python -m bench.serve [--connections 1,16,64] [--workloads seq-native,...] [--seconds 5] [--json FILE]

The server is `wfserve serve` as anybody starts it, with one configuration for all cells. A cell with an
error, or a workload with a wrong answer, counts as nothing.
"""

from __future__ import annotations

import argparse
import json
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self
from urllib.error import HTTPError
from urllib.request import Request, urlopen

from bench.load import CONTENT_TYPE, Target, measure, tool
from bench.processes import children
from bench.workloads.build import NAMES, body, build, is_right

if TYPE_CHECKING:
    from types import TracebackType

FIRST = NAMES[0]  # the workflow that the server starts with
PATIENCE = 120.0  # seconds for a start, a registration, an answer, a stop
WARM_UP = 1.0  # seconds of load that are not measured


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """A context: a server process that has become healthy, with its files in `directory`.

    It starts with the workflow `first` of `store`; `settings` are lines of its properties file.
    """

    def __init__(self, directory: Path, store: Path, first: str = FIRST, **settings: str) -> None:
        self._first = first
        self.inference, self.management, self.metrics = free_ports(3)
        self.log = directory / "server.log"
        config = directory / "config.properties"
        ports = {"inference": self.inference, "management": self.management, "metrics": self.metrics}
        settings |= {f"{api}_address": f"http://127.0.0.1:{port}" for api, port in ports.items()}
        config.write_text("".join(f"{key}={value}\n" for key, value in settings.items()))
        self.command = [
            *(str(Path(sys.executable).with_name("wfserve")), "serve", "--ts-config", str(config)),
            *("--workflow-store", str(store), "--model-store", str(store), "--workflows", f"{first}.war"),
            *("--state-dir", str(directory / "state")),
        ]

    def __enter__(self) -> Self:
        began = time.perf_counter()
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(self.command, stdout=log, stderr=log, cwd=self.log.parent)
        try:
            while not self._healthy():
                self._check_alive(began)
                time.sleep(0.01)
        except BaseException:
            self.__exit__(None, None, None)
            raise
        self.cold_start = time.perf_counter() - began  # seconds
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.terminate()
        try:
            self.process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def _healthy(self) -> bool:
        try:
            self.call("GET", self.inference, "/ping")
            listed = json.loads(self.call("GET", self.management, "/workflows"))["workflows"]
        except OSError:  # refused, reset, or an error status
            return False
        return any(each["workflowName"] == self._first for each in listed)

    def _check_alive(self, began: float) -> None:
        if self.process.poll() is not None or time.perf_counter() - began > PATIENCE:
            raise SystemExit(f"the server did not become healthy:\n{self.log.read_text()[-4000:]}")

    def call(self, method: str, port: int, path: str, data: bytes | None = None) -> bytes:
        """Return the body of an answer. Raises `OSError`; of it, `HTTPError` for an error status."""
        request = Request(
            f"http://127.0.0.1:{port}{path}", data, {"Content-Type": CONTENT_TYPE}, method=method
        )
        with urlopen(request, timeout=PATIENCE) as response:
            answer: bytes = response.read()
        return answer

    def register(self, name: str) -> float:
        """Register workload `name` and return the seconds it took."""
        began = time.perf_counter()
        self.call("POST", self.management, f"/workflows?url={name}.war", b"")
        return time.perf_counter() - began

    def workers(self) -> list[int]:
        """Return the process ids of all workers: what the forkserver has forked."""
        return [
            child
            for helper in children(self.process.pid)
            if b"forkserver" in Path(f"/proc/{helper}/cmdline").read_bytes()
            for child in children(helper)
        ]


def memory(pid: int) -> dict[str, float]:
    """Return the resident and the proportional memory of a process in MiB."""
    fields = {}
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()[1:]:
        key, value, *_ = line.split()
        fields[key] = int(value) / 1024
    return {"rss_mib": fields["Rss:"], "pss_mib": fields["Pss:"]}


def typical_memory(pids: list[int]) -> dict[str, float]:
    """Return the medians of `memory` over processes."""
    found = [memory(pid) for pid in pids]
    return {key: statistics.median(each[key] for each in found) for key in found[0]}


def check_answer(server: Server, name: str, store: Path) -> bool:
    """Ask once, and say so if the answer is not what the workload computes."""
    try:
        answer = server.call("POST", server.inference, f"/wfpredict/{name}", body(name, store).read_bytes())
    except HTTPError as error:
        print(f"{name}: {error.code} {error.read().decode(errors='replace')}", file=sys.stderr)
        return False
    if not is_right(name, answer, store):
        print(f"{name}: wrong answer {answer[:100]!r}", file=sys.stderr)
        return False
    return True


def measure_cell(server: Server, name: str, connections: int, seconds: float, store: Path) -> dict[str, Any]:
    """Return one cell of the table, and print it."""
    target = Target(server.inference, f"/wfpredict/{name}", body(name, store))
    measure(target, connections, WARM_UP)
    found = measure(target, connections, seconds)
    rate = "nothing" if found.rate is None else f"{found.rate:,.0f}"
    print(
        f"{name:12} {connections:>5} {rate:>10} {found.p50_ms:>9.2f} {found.p99_ms:>9.2f} {found.errors:>7}",
        flush=True,
    )
    return {
        "workload": name,
        "connections": connections,
        "rps": found.rate,
        "p50_ms": found.p50_ms,
        "p99_ms": found.p99_ms,
        "errors": found.errors,
    }


def run(arguments: argparse.Namespace, server: Server, store: Path) -> dict[str, Any]:
    """Measure everything and print it as it comes."""
    print(f"cold start until healthy, with {FIRST}: {server.cold_start:.2f} s")
    server.call("DELETE", server.management, f"/workflows/{FIRST}")
    registrations = {name: server.register(name) for name in NAMES}
    for name, seconds in registrations.items():
        print(f"registering {name}: {seconds * 1e3:.0f} ms")
    print(f"\nload by {tool()}, {arguments.seconds:g} s a cell")
    print(f"{'workload':12} {'conns':>5} {'req/s':>10} {'p50 ms':>9} {'p99 ms':>9} {'errors':>7}")
    cells = [
        measure_cell(server, name, connections, arguments.seconds, store)
        for name in arguments.workloads
        if check_answer(server, name, store)
        for connections in arguments.connections
    ]
    worker = typical_memory(server.workers())
    print(f"\na worker after that: RSS {worker['rss_mib']:.0f} MiB, PSS {worker['pss_mib']:.0f} MiB")
    return {
        "tool": tool(),
        "cold_start_s": server.cold_start,
        "register_s": registrations,
        "worker": worker,
        "cells": cells,
    }


def _names(text: str) -> list[str]:
    names = text.split(",")
    if unknown := set(names) - set(NAMES):
        raise argparse.ArgumentTypeError(f"no workload {', '.join(unknown)}; there are {', '.join(NAMES)}")
    return names


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def main() -> None:
    """Run the command line; exit with 1 if anything counted as nothing."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--connections", type=_numbers, default=[1, 16, 64], metavar="N,...")
    parser.add_argument("--workloads", type=_names, default=list(NAMES), metavar="NAME,...")
    parser.add_argument("--seconds", type=float, default=5.0, help="of each cell (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="wfserve-bench-") as directory:
        store = Path(directory) / "store"
        store.mkdir()
        build(store)
        with Server(Path(directory), store) as server:
            numbers = run(arguments, server, store)
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")
    wanted = len(arguments.workloads) * len(arguments.connections)
    sys.exit(sum(cell["rps"] is not None for cell in numbers["cells"]) < wanted)


if __name__ == "__main__":
    main()
