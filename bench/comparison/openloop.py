"""Open-loop load: requests are sent when a Poisson process says so, whether or not answers have come.

    python -m bench.comparison.openloop PORT PATH BODY RATE SECONDS

A latency counts from the moment a request was to be sent, also if no connection was free then or this process
was late: nothing is omitted because the server was slow. How late this process is by itself is measured, too:
a client that cannot keep the pace says nothing of the server. An answer that is not 200, or none, is
an error.
"""

from __future__ import annotations

import argparse
import asyncio
import ctypes
import json
import random
import re
import selectors
import statistics
import subprocess
import sys
import time
from collections import deque
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import CONTENT_TYPE, Measurement, Target, summary

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterable, Iterator

CONNECTIONS = 128
BURST = 8  # requests that are sent at once, at most, by a client that is late
PATIENCE = 30.0  # seconds for the answers that are still owed when the time is over
SEED = 0  # every run has the same arrivals, scaled by its rate
_PR_SET_TIMERSLACK = 29  # of linux/prctl.h
_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)\r\n", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class OpenMeasurement:
    """What one run found."""

    measured: Measurement
    late_ms: float  # the client, at the median, when it sent or wanted to


def measure(target: Target, rate: float, seconds: float) -> OpenMeasurement:
    """Put `rate` requests a second on `target` from another process. Raises `subprocess.SubprocessError`."""
    values = map(str, (target.port, target.path, target.body, rate, seconds))
    command = [sys.executable, "-m", "bench.comparison.openloop", *values]
    output = subprocess.check_output(command, text=True, timeout=seconds + 2 * PATIENCE)
    found = json.loads(output)
    return OpenMeasurement(Measurement(**found["measured"]), found["late_ms"])


def arrivals(rate: float, seconds: float) -> Iterator[float]:
    """Yield the moments of a Poisson process, in seconds from its beginning."""
    chance = random.Random(SEED)
    moment = chance.expovariate(rate)
    while moment < seconds:
        yield moment
        moment += chance.expovariate(rate)


class Load:
    """Requests that are due, and the connections that are free to carry them."""

    def __init__(self, request: bytes) -> None:
        self.request = request
        self.latencies: list[float] = []  # seconds
        self.errors = 0
        self.owed = 0  # answers
        self.settled = asyncio.Event()
        self._due: deque[float] = deque()  # `time.perf_counter` of requests that no connection was free for
        self._free: list[Connection] = []

    def send(self, due: float) -> None:
        """Send a request that is due now, or was."""
        self.owed += 1
        if self._free:
            self._free.pop().ask(due)
        else:
            self._due.append(due)

    def freed(self, connection: Connection) -> None:
        """Use a connection for what is due."""
        if self._due:
            connection.ask(self._due.popleft())
        else:
            self._free.append(connection)

    def lost(self, connection: Connection) -> None:
        """Do without a connection; what is due waits for the others."""
        if connection in self._free:
            self._free.remove(connection)

    def answered(self, latency: float | None) -> None:
        """Count an answer; None: there was none, or an error's."""
        self.owed -= 1
        if latency is None:
            self.errors += 1
        else:
            self.latencies.append(latency)
        if not self.owed:
            self.settled.set()


class Connection(asyncio.Protocol):
    """A kept-alive connection with one request at a time."""

    def __init__(self, load: Load) -> None:
        self.load = load
        self.due: float | None = None  # of the request whose answer it waits for

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Be of use."""
        assert isinstance(transport, asyncio.Transport)
        self.transport = transport
        self.buffer = bytearray()
        self.load.freed(self)

    def ask(self, due: float) -> None:
        """Send a request."""
        self.due = due
        self.buffer.clear()
        self.transport.write(self.load.request)

    def data_received(self, data: bytes) -> None:
        """Take in a part of an answer, and the next request once it is whole."""
        self.buffer += data
        head, blank, content = self.buffer.partition(b"\r\n\r\n")
        if not blank:
            return
        length = _LENGTH.search(head + b"\r\n")
        if head[9:12] != b"200" or length is None:
            self.transport.close()
        elif self.due is not None and len(content) >= int(length[1]):
            self.load.answered(time.perf_counter() - self.due)
            self.due = None
            self.load.freed(self)

    def connection_lost(self, error: Exception | None) -> None:
        """Count what is owed as an error; the others carry on."""
        self.load.lost(self)
        if self.due is not None:
            self.load.answered(None)


async def run(target: Target, rate: float, seconds: float) -> OpenMeasurement:
    """Put load on `target` from this process."""
    body = target.body.read_bytes()
    head = f"POST {target.path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: {CONTENT_TYPE}\r\n"
    load = Load(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
    async with _connected(target.port, load):
        began = time.perf_counter()
        late = await _send_all(load, began, arrivals(rate, seconds))
        measured = await _settle(load, began)
    return OpenMeasurement(measured, statistics.median(late or [0.0]) * 1e3)


@asynccontextmanager
async def _connected(port: int, load: Load) -> AsyncIterator[None]:
    """Connections for `load`, which are closed afterwards."""
    loop = asyncio.get_running_loop()
    transports: list[asyncio.Transport] = []
    try:
        for _ in range(CONNECTIONS):
            transport, _ = await loop.create_connection(lambda: Connection(load), "127.0.0.1", port)
            transports.append(transport)
        yield
    finally:
        for transport in transports:
            transport.abort()
        await asyncio.sleep(0)  # the loop closes them


async def _send_all(load: Load, began: float, moments: Iterable[float]) -> list[float]:
    """Send requests at `moments` after `began`; return by how many seconds each was late."""
    late: list[float] = []
    for moment in moments:
        if (early := began + moment - time.perf_counter()) > 0:
            await asyncio.sleep(early)
        elif len(late) % BURST == 0:
            await asyncio.sleep(0)  # answers come, too
        late.append(time.perf_counter() - began - moment)
        load.send(began + moment)
    return late


async def _settle(load: Load, began: float) -> Measurement:
    """Wait for the answers that are owed; those that do not come are errors."""
    sent_for = time.perf_counter() - began
    if load.owed:
        load.settled.clear()
        try:
            await asyncio.wait_for(load.settled.wait(), PATIENCE)
        except TimeoutError:
            load.errors += load.owed
    return summary(load.latencies, sent_for, load.errors)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return a loop that wakes to the microsecond: epoll counts milliseconds, `select` does not."""
    ctypes.CDLL(None).prctl(_PR_SET_TIMERSLACK, 1, 0, 0, 0)
    return asyncio.SelectorEventLoop(selectors.SelectSelector())


def main() -> None:
    """Put load on a server as the arguments say and print the measurement as JSON."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("port", type=int)
    parser.add_argument("path")
    parser.add_argument("body", type=Path)
    parser.add_argument("rate", type=float)
    parser.add_argument("seconds", type=float)
    a = parser.parse_args()
    with asyncio.Runner(loop_factory=precise_loop) as runner:
        measured = runner.run(run(Target(a.port, a.path, a.body), a.rate, a.seconds))
    print(json.dumps(asdict(measured)))


if __name__ == "__main__":
    main()
