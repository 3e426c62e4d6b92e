"""An empty ASGI application on our server, on hypercorn and on uvicorn (uvloop, httptools), in turns.

Each server is one process of its own; wrk asks with one thread over kept-alive connections. They run in
turns within one run (A B C A B C …), so that whatever else the machine does falls on all alike, and what
counts are the ratios; the CPU time that a server takes a request hardly depends on what else runs. A run in
which a request failed counts as nothing. uvicorn may live in an environment
of its own: `--uvicorn PYTHON` names its interpreter. (This file is not called http.py, because
scripts beside it import `http`.)
"""

from __future__ import annotations

import argparse
import contextlib
import json
import re
import shutil
import socket
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


class Round(NamedTuple):
    """What one server did while wrk asked it."""

    rate: float  # requests per second
    cpu: float  # µs of CPU time a request, of the server


async def application(scope: Any, receive: Any, send: Any) -> None:
    """Answer "ok" to everything."""
    if scope["type"] == "lifespan":
        while (message := await receive())["type"] != "lifespan.shutdown":
            await send({"type": f"{message['type']}.complete"})
        await send({"type": "lifespan.shutdown.complete"})
        return
    await send({"type": "http.response.start", "status": 200, "headers": HEADERS})
    await send({"type": "http.response.body", "body": b"ok"})


def run_wfserve(port: int) -> None:
    """Serve until killed."""
    import trio

    from wfserve.http.server import ServerSettings, serve

    async def main() -> None:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        await serve(application, [listener], ServerSettings(), stop=trio.Event())

    trio.run(main)


def run_hypercorn(port: int) -> None:
    """Serve until killed."""
    import trio
    from hypercorn.config import Config
    from hypercorn.trio import serve

    config = Config()
    config.bind = [f"127.0.0.1:{port}"]
    config.include_server_header = False
    app: Any = application
    trio.run(serve, app, config)


def run_uvicorn(port: int) -> None:
    """Serve until killed."""
    import uvicorn  # type: ignore[import-not-found,unused-ignore]

    uvicorn.run(
        application,
        port=port,
        loop="uvloop",
        http="httptools",
        access_log=False,
        server_header=False,
        log_level="error",
    )


def free_port() -> int:
    """Return a port that was free a moment ago."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@contextlib.contextmanager
def running(name: str, python: str) -> Iterator[tuple[int, int]]:
    """A server process; gives its port and its process id."""
    port = free_port()
    with subprocess.Popen(
        [python, __file__, "--serve", name, str(port)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(port, name, process)
            yield port, process.pid
        finally:
            process.kill()


def wait_for(port: int, name: str, process: subprocess.Popen[bytes]) -> None:
    """Return once somebody listens on `port`."""
    for _ in range(200):
        if process.poll() is not None:
            raise SystemExit(f"{name} does not start")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.05)
    raise SystemExit(f"{name} does not listen")


def run(port: int, pid: int, connections: int, seconds: float) -> Round | None:
    """Return what wrk and the kernel measure, None if a request failed."""
    from bench.cores import cpu_seconds  # the servers run this file as a script, which knows no `bench`

    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    before = cpu_seconds(pid)
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    cpu = cpu_seconds(pid) - before
    rate = re.search(r"Requests/sec:\s+([\d.]+)", text)
    requests = re.search(r"(\d+) requests in", text)
    if "Socket errors" in text or "Non-2xx" in text or not rate or not requests:
        return None
    return Round(float(rate[1]), cpu / int(requests[1]) * 1e6)


def measure(pythons: dict[str, str], connections: int, rounds: int, seconds: int) -> dict[str, list[Round]]:
    """Return each round of each server; the one before the first warms up."""
    found: dict[str, list[Round]] = {name: [] for name in pythons}
    with contextlib.ExitStack() as stack:
        servers = {name: stack.enter_context(running(name, python)) for name, python in pythons.items()}
        for number in range(rounds + 1):
            for name, (port, pid) in servers.items():
                done = run(port, pid, connections, seconds)
                if number and done is not None:
                    found[name].append(done)
    return found


def show(found: dict[str, list[Round]], connections: int) -> dict[str, float]:
    """Print a table of medians; return them, and our rate's as a multiple of each other's."""
    numbers = {}
    print(f"{connections} connections      requests/s    wfserve is    CPU a request")
    for name, each in found.items():
        numbers[name] = _median([one.rate for one in each])
        numbers[f"{name}_cpu"] = _median([one.cpu for one in each])
        ratio = numbers["wfserve"] / numbers[name]
        print(f"{name:<18}{numbers[name]:>14.0f}{ratio:>12.2f} ×{numbers[f'{name}_cpu']:>14.1f} µs")
        if name != "wfserve":
            numbers[f"wfserve_vs_{name}"] = ratio
    return numbers


def _median(values: list[float]) -> float:
    return statistics.median(values) if values else float("nan")


def has_uvicorn(python: str) -> bool:
    """Whether an interpreter can run it."""
    found = subprocess.run(
        [python, "-c", "import uvicorn, uvloop, httptools"], capture_output=True, check=False
    )
    return found.returncode == 0


def main() -> None:
    """Print tables, and write the numbers as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--rounds", type=int, default=5, help="of each server (default: %(default)s)")
    parser.add_argument("--seconds", type=int, default=3, help="of a round (default: %(default)s)")
    parser.add_argument(
        "--uvicorn", metavar="PYTHON", default=sys.executable, help="interpreter with uvicorn"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    parser.add_argument("--serve", nargs=2, metavar=("SERVER", "PORT"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.serve:
        name, port = arguments.serve
        {"wfserve": run_wfserve, "hypercorn": run_hypercorn, "uvicorn": run_uvicorn}[name](int(port))
        return
    if shutil.which("wrk") is None:
        parser.error("wrk is not installed")
    pythons = {"wfserve": sys.executable, "hypercorn": sys.executable}
    if has_uvicorn(arguments.uvicorn):
        pythons["uvicorn"] = arguments.uvicorn
    else:
        print("uvicorn, uvloop and httptools are not installed: left out", file=sys.stderr)
    numbers = {}
    for connections in arguments.connections:
        rounds = measure(pythons, connections, arguments.rounds, arguments.seconds)
        numbers[str(connections)] = show(rounds, connections) | {"rounds": rounds}
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
