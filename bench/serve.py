"""Requests a second and latencies of the workloads, closed loop over HTTP, with one setting throughout.

    python bench/workloads/build.py DIR
    python bench/serve.py DIR [--seconds 5] [--connections 1,16,64] [--json FILE]

Also: cold start until healthy, time to register each workflow, memory of a worker. `wrk -t1` makes the load
(Debian: apt-get install wrk). A cell with an error response counts as nothing.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import httpx

if TYPE_CHECKING:
    from collections.abc import Iterator

WORKLOADS = ("seq-native", "seq-bytes", "img-native", "img-bytes")
WFSERVE = Path(sys.executable).with_name("wfserve")
PATIENCE = 60.0  # seconds
POST = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/octet-stream"
local file = io.open(os.getenv("BODY"), "rb")
wrk.body = file:read("*a")
file:close()
"""


class Cell(NamedTuple):
    """What one run of the load generator measured; latencies are milliseconds."""

    rate: float
    p50: float
    p99: float
    errors: int


def free_ports(count: int) -> list[int]:
    """Return ports that were free a moment ago."""
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Server:
    """A `wfserve serve` process of this checkout."""

    def __init__(self, process: subprocess.Popen[bytes], ports: list[int]) -> None:
        self.process = process
        self.inference, self.management = (f"http://127.0.0.1:{port}" for port in ports[:2])
        self.client = httpx.Client(timeout=PATIENCE, trust_env=False)

    def wait_until_healthy(self) -> None:
        """Poll `/ping`."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline and self.process.poll() is None:
            with contextlib.suppress(httpx.TransportError):
                if self.client.get(f"{self.inference}/ping").status_code == 200:
                    return
            time.sleep(0.01)
        raise SystemExit("the server did not become healthy")

    def register(self, name: str) -> float:
        """Register a workflow and return the seconds it took."""
        began = time.perf_counter()
        self.client.post(f"{self.management}/workflows", params={"url": f"{name}.war"}).raise_for_status()
        return time.perf_counter() - began

    def worker_memory(self) -> tuple[float, float]:
        """Return the mean (resident, proportional) MB of the workers, which lead process groups."""
        sizes = [memory_of(pid) for pid in descendants(self.process.pid) if os.getpgid(pid) == pid]
        resident, proportional = zip(*sizes, strict=True)
        return sum(resident) / len(sizes), sum(proportional) / len(sizes)


def memory_of(pid: int) -> tuple[float, float]:
    """Return a process's resident and proportional memory, MB."""
    text = Path(f"/proc/{pid}/smaps_rollup").read_text(encoding="ascii")
    return tuple(int(re.search(rf"^{key}:\s+(\d+)", text, re.M)[1]) / 1024 for key in ("Rss", "Pss"))


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`."""
    found = [int(each) for each in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
    return found + [below for each in found for below in descendants(each)]


@contextlib.contextmanager
def running(store: Path) -> Iterator[Server]:
    """Run a server over `store`; it is gone when the block ends."""
    ports = free_ports(3)
    with tempfile.TemporaryDirectory() as state:
        settings = zip(("inference", "management", "metrics"), ports, strict=True)
        config = Path(state, "config.properties")
        config.write_text("".join(f"{api}_address=http://127.0.0.1:{port}\n" for api, port in settings))
        command = [WFSERVE, "serve", "--ts-config", config, "--workflow-store", store, "--state-dir", state]
        process = subprocess.Popen([*map(str, command)], stderr=subprocess.DEVNULL)
        try:
            yield Server(process, ports)
        finally:
            process.terminate()
            try:
                process.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def load(url: str, body: Path, connections: int, seconds: float, script: Path) -> Cell:
    """Run wrk once."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds:g}s", "--timeout", "30s", "--latency", "-s"]
    output = subprocess.run(
        [*command, str(script), url],
        env={**os.environ, "BODY": str(body)},
        text=True,
        capture_output=True,
        check=True,
        timeout=seconds + PATIENCE,
    ).stdout
    wrong = sum(map(int, re.findall(r"Non-2xx or 3xx responses: (\d+)", output)))
    wrong += sum(int(n) for n in re.findall(r"(?:connect|read|write|timeout) (\d+)", output))
    rate = float(re.search(r"Requests/sec:\s+([\d.]+)", output)[1])
    return Cell(rate, _milliseconds(output, 50), _milliseconds(output, 99), wrong)


def _milliseconds(output: str, percentile: int) -> float:
    value, unit = re.search(rf"^\s+{percentile}%\s+([\d.]+)(us|ms|s)$", output, re.M).groups()
    return float(value) * {"us": 1e-3, "ms": 1.0, "s": 1e3}[unit]


def measure(store: Path, connections: list[int], seconds: float) -> dict[str, float]:
    """Return all figures, and print each as it comes."""
    figures: dict[str, float] = {}
    began = time.perf_counter()
    with running(store) as server, tempfile.NamedTemporaryFile("w", suffix=".lua") as script:
        script.write(POST)
        script.flush()
        server.wait_until_healthy()
        figures["cold_start_s"] = time.perf_counter() - began
        for name in WORKLOADS:
            figures[f"register_{name}_s"] = server.register(name)
        for key, value in figures.items():
            print(f"{key:24} {value:8.3f}", flush=True)
        for name in WORKLOADS:
            for count in connections:
                url, body = f"{server.inference}/wfpredict/{name}", store / f"{name.partition('-')[0]}.bin"
                load(url, body, count, min(1.0, seconds), Path(script.name))  # warm-up
                figures |= _report(name, count, load(url, body, count, seconds, Path(script.name)))
        resident, proportional = server.worker_memory()
        print(f"memory of a worker       {resident:8.0f} MB resident, {proportional:.0f} MB proportional")
        return figures | {"worker_rss_mb": resident, "worker_pss_mb": proportional}


def _report(name: str, count: int, cell: Cell) -> dict[str, float]:
    label = f"{name} c={count}"
    if cell.errors:
        print(f"{label:24} {cell.errors} errors: counts as nothing", flush=True)
        return {}
    print(f"{label:24} {cell.rate:8.0f}/s  p50 {cell.p50:8.2f} ms  p99 {cell.p99:8.2f} ms", flush=True)
    key = f"{name}_c{count}".replace("-", "_")
    return {f"{key}_rps": cell.rate, f"{key}_p50_ms": cell.p50, f"{key}_p99_ms": cell.p99}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--connections", default="1,16,64")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    if shutil.which("wrk") is None:
        raise SystemExit("wrk makes the load, and is not installed; on Debian: apt-get install wrk")
    figures = measure(
        options.directory.resolve(), [*map(int, options.connections.split(","))], options.seconds
    )
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
