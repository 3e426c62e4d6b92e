"""An empty ASGI application on our server, on hypercorn and on uvicorn (uvloop, httptools), in turns.

Each server is one process of its own; wrk asks with one thread over kept-alive connections. They run in
turns within one run (A B C A B C …), so that whatever else the machine does falls on all alike, and what
counts are the ratios. A run in which a request failed counts as nothing. uvicorn may live in an environment
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
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator

HEADERS = [(b"content-type", b"text/plain"), (b"content-length", b"2")]


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
def running(name: str, python: str) -> Iterator[int]:
    """A server process; gives its port."""
    port = free_port()
    with subprocess.Popen(
        [python, __file__, "--serve", name, str(port)], stderr=subprocess.DEVNULL
    ) as process:
        try:
            wait_for(port, name, process)
            yield port
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


def requests_per_second(port: int, connections: int, seconds: float) -> float | None:
    """Return what wrk measures, None if a request failed."""
    command = ["wrk", "-t1", f"-c{connections}", f"-d{seconds}s", f"http://127.0.0.1:{port}/"]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if "Socket errors" in text or "Non-2xx" in text:
        return None
    found = re.search(r"Requests/sec:\s+([\d.]+)", text)
    return float(found[1]) if found else None


def measure(pythons: dict[str, str], connections: int, rounds: int, seconds: int) -> dict[str, list[float]]:
    """Return the requests per second of each round of each server; the round before the first warms up."""
    rates: dict[str, list[float]] = {name: [] for name in pythons}
    with contextlib.ExitStack() as stack:
        ports = {name: stack.enter_context(running(name, python)) for name, python in pythons.items()}
        for number in range(rounds + 1):
            for name, port in ports.items():
                rate = requests_per_second(port, connections, seconds)
                if number and rate is not None:
                    rates[name].append(rate)
    return rates


def show(rates: dict[str, list[float]], connections: int) -> dict[str, float]:
    """Print a table; return medians, and our median as a multiple of each other's."""
    numbers = {}
    print(f"{connections} connections      requests/s    wfserve is")
    for name, each in rates.items():
        numbers[name] = statistics.median(each) if each else float("nan")
        ratio = numbers["wfserve"] / numbers[name]
        print(f"{name:<18}{numbers[name]:>14.0f}{ratio:>12.2f} ×")
        if name != "wfserve":
            numbers[f"wfserve_vs_{name}"] = ratio
    return numbers


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
        rates = measure(pythons, connections, arguments.rounds, arguments.seconds)
        numbers[str(connections)] = show(rates, connections) | {"rounds": rates}
    if arguments.json:
        arguments.json.write_text(json.dumps(numbers, indent=2) + "\n")


if __name__ == "__main__":
    main()
