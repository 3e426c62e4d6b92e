"""Closed-loop load: each connection sends its next request when the answer to its last has been read.

`wrk -t1` makes it where it is installed, else the client below in a process of its own. An answer that is
not 200, or none, is an error, and with an error a measurement counts as nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import re
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

PATIENCE = 30.0  # seconds more than the measurement that its process may take
CONTENT_TYPE = "application/octet-stream"
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)

_WRK = """\
wrk.method = "POST"
wrk.headers["Content-Type"] = "{content_type}"
local file = assert(io.open("{body}", "rb"))
wrk.body = file:read("*a")
file:close()
function done(summary, latency, requests)
  local e = summary.errors
  io.write(string.format('{{"requests": %d, "seconds": %f, "errors": %d, "p50_ms": %f, "p99_ms": %f}}\\n',
    summary.requests, summary.duration / 1e6, e.connect + e.read + e.write + e.status + e.timeout,
    latency:percentile(50) / 1e3, latency:percentile(99) / 1e3))
end
"""


@dataclass(frozen=True, slots=True)
class Target:
    """A POST request: where it goes, and the file with its body."""

    port: int  # on loopback
    path: str
    body: Path


@dataclass(frozen=True, slots=True)
class Measurement:
    """What one run of closed-loop load found; latencies in milliseconds."""

    requests: int
    seconds: float
    errors: int
    p50_ms: float
    p99_ms: float

    @property
    def rate(self) -> float | None:
        """Answers a second; None if there was an error, or no answer."""
        return self.requests / self.seconds if self.requests and not self.errors else None


def tool() -> str:
    """Return what makes the load on this machine."""
    return "wrk" if shutil.which("wrk") else "bench.load"


def measure(target: Target, connections: int, seconds: float) -> Measurement:
    """Put load on `target` from another process. Raises `subprocess.SubprocessError`."""
    with tempfile.TemporaryDirectory() as scratch:
        command = (_wrk if tool() == "wrk" else _own)(target, connections, seconds, Path(scratch))
        output = subprocess.check_output(command, text=True, timeout=seconds + PATIENCE)
    return Measurement(**json.loads(output.splitlines()[-1]))


def _wrk(target: Target, connections: int, seconds: float, scratch: Path) -> list[str]:
    script = scratch / "post.lua"
    script.write_text(_WRK.format(content_type=CONTENT_TYPE, body=target.body))
    duration = f"{max(1, round(seconds))}s"  # wrk takes whole seconds
    url = f"http://127.0.0.1:{target.port}{target.path}"
    return ["wrk", "-t1", f"-c{connections}", f"-d{duration}", "--timeout=10s", "-s", str(script), url]


def _own(target: Target, connections: int, seconds: float, scratch: Path) -> list[str]:
    values = (target.port, target.path, target.body, connections, seconds)
    return [sys.executable, str(Path(__file__).resolve()), *map(str, values)]


class Connection(asyncio.Protocol):
    """One connection that asks and asks until `until` (`time.perf_counter`, seconds) or its first error."""

    def __init__(self, request: bytes, until: float, latencies: list[float]) -> None:
        self.request = request
        self.until = until
        self.latencies = latencies  # seconds; shared by all connections
        self.failed = False
        self.ended = asyncio.get_running_loop().create_future()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send the first request."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self._ask()

    def _ask(self) -> None:
        self.buffer = bytearray()
        self.asked = time.perf_counter()
        self.transport.write(self.request)

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer; once it is whole, ask again."""
        self.buffer += data
        head, blank, content = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = _LENGTH.search(head + b"\r\n")
        self.failed = head[9:12] != b"200" or length is None
        if self.failed:
            self.transport.close()
        elif length is not None and len(content) >= int(length[1]):
            self._answered()

    def _answered(self) -> None:
        now = time.perf_counter()
        self.latencies.append(now - self.asked)
        if now < self.until:
            self._ask()
        else:
            self.request = b""  # nothing is owed any more
            self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        """Say how it ended; a server that hangs up is an error."""
        self.failed = self.failed or bool(self.request)
        self.ended.set_result(None)


async def closed_loop(target: Target, connections: int, seconds: float) -> Measurement:
    """Put load on `target` from this process."""
    body = target.body.read_bytes()
    head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {CONTENT_TYPE}\r\n"
    request = f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body
    latencies: list[float] = []
    began = time.perf_counter()
    loop = asyncio.get_running_loop()

    async def run_one() -> bool:
        try:
            _, connection = await loop.create_connection(
                lambda: Connection(request, began + seconds, latencies), "127.0.0.1", target.port
            )
        except OSError:
            return False
        await connection.ended
        return not connection.failed

    fine = await asyncio.gather(*(run_one() for _ in range(connections)))
    return summary(latencies, time.perf_counter() - began, fine.count(False))


def summary(latencies: list[float], seconds: float, errors: int) -> Measurement:
    """Return the measurement that `latencies` (seconds, any order) make."""
    ordered = sorted(latencies) or [0.0]
    p50, p99 = (ordered[len(ordered) * percent // 100] * 1e3 for percent in (50, 99))
    return Measurement(len(latencies), seconds, errors, p50, p99)


def main() -> None:
    """Put load on a server as the arguments say and print the measurement as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("connections", type=int)
    parser.add_argument("seconds", type=float)
    a = parser.parse_args()
    target = Target(a.port, a.path, a.body)
    print(json.dumps(asdict(asyncio.run(closed_loop(target, a.connections, a.seconds)))))


if __name__ == "__main__":
    main()
