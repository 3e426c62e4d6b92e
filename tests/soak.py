"""After any number of requests, a part of them faulty, the server holds exactly what it held before.

    python -m tests.soak [--requests 1000000] [--clients 16] [--seed 1]

Clients send good requests and all kinds of bad ones, a worker is killed every few thousand, and every answer
is checked. At the end slots and bytes of payload memory, file descriptors and processes are as they began.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import os
import random
import re
import signal
import socket
import struct
import tempfile
import threading
import time
import urllib.request
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from tests.archives import chain, pack, pack_handler
from tests.servers import Server

if TYPE_CHECKING:
    from collections.abc import Callable

PATIENCE = 60.0  # seconds that an answer, or the end of the last worker's restart, may take
KILL_EVERY = 5000  # requests
REPORT_EVERY = 50_000
WORKFLOWS = {
    "upper": chain("echo", "upper"),
    "obey": chain("obey"),
    "lethal": chain("obey", settings="timeout-ms: 500"),  # whoever waits behind a fault here may time out
    "rows": """
        models:
          data-format: native
          batch-size: 8
          min-workers: 2
          max-workers: 2
          retry-attempts: 3
          firsts: {url: firsts.mar, input-shape: [256]}
        dag:
          firsts: []
        """,
}
FIRSTS = """
def handle(data, context):
    return data and data.tensor()[:, 0].tolist()
"""


class Client:
    """One kept-alive connection, made anew whenever one of the two sides has closed it."""

    def __init__(self, port: int, seed: int) -> None:
        self.port = port
        self.chance = random.Random(seed)
        self.connection: socket.socket | None = None

    def send(self, data: bytes) -> socket.socket:
        if self.connection is None:
            self.connection = socket.create_connection(("127.0.0.1", self.port), PATIENCE)
        self.connection.sendall(data)
        return self.connection

    def close(self) -> None:
        if self.connection is not None:
            self.connection.close()
            self.connection = None

    def ask(self, data: bytes) -> tuple[int, bytes]:
        """Send `data` and return the status and the body of the answer."""
        with self.send(data).makefile("rb") as answer:
            status = int(answer.readline().split()[1])
            headers = dict(self._headers(answer.readline))
            body = answer.read(int(headers[b"content-length"]))
        if headers.get(b"connection") == b"close":
            self.close()
        return status, body

    @staticmethod
    def _headers(readline: Callable[[], bytes]) -> list[tuple[bytes, bytes]]:
        lines = iter(readline, b"\r\n")
        pairs = (line.lower().split(b":", 1) for line in lines)
        return [(name, value.strip()) for name, value in pairs]


def post(workflow: str, body: bytes, headers: str = "") -> bytes:
    """Return a request."""
    length = f"content-length: {len(body)}\r\n"
    return f"POST /wfpredict/{workflow} HTTP/1.1\r\nhost: x\r\n{headers}{length}\r\n".encode() + body


def good(client: Client) -> bool:
    body = b"%x" % client.chance.getrandbits(8 * client.chance.choice([1, 100, 5000]))
    return client.ask(post("upper", body)) == (200, body.upper())


def rows(client: Client) -> bool:
    """A body of one row, which shares a slab with others, or of several, which two workers share."""
    numbers = [float(client.chance.randrange(1000)) for _ in range(client.chance.choice([1, 1, 1, 5, 40]))]
    body = b"".join(struct.pack("<256f", *[number] * 256) for number in numbers)
    status, answer = client.ask(post("rows", body, "content-type: application/octet-stream\r\n"))
    return status == 200 and json.loads(answer) == (numbers if len(numbers) > 1 else numbers[0])


def hurried(client: Client) -> bool:
    headers = (
        f"x-timeout-ms: {client.chance.choice([1, 5, 50])}\r\nx-priority: {client.chance.randrange(10)}\r\n"
    )
    return client.ask(post("obey", b"sleep 0.004", headers))[0] in (200, 503, 504)


def large(client: Client) -> bool:
    return client.ask(post("obey", b"big 300000")) == (200, b"x" * 300_000)


def obeyed(client: Client) -> bool:
    return client.ask(post("obey", b"word")) == (200, b"word")


def raises(client: Client) -> bool:
    return fails(client, "obey", b"raise")


def fails(client: Client, workflow: str, word: bytes) -> bool:
    """Ask for a fault: no more is told than that there was one."""
    status, body = client.ask(post(workflow, word))
    return status == 500 and b"Error executing obey" in body


def lethal(word: bytes) -> Callable[[Client], bool]:
    """A fault that costs the worker its life, and a request that its successor may answer."""

    def ask(client: Client) -> bool:
        return fails(client, "lethal", word) and client.ask(post("lethal", b"word"))[0] in (200, 500)

    return ask


def refused(data: bytes, status: int) -> Callable[[Client], bool]:
    """A request that is refused as it arrives."""

    def ask(client: Client) -> bool:
        return client.ask(data)[0] == status

    return ask


def leaves_before_its_body_has_arrived(client: Client) -> bool:
    client.send(post("upper", bytes(200_000))[: client.chance.randrange(1, 200_000)])
    client.close()
    return True


def leaves_before_its_answer(client: Client) -> bool:
    client.send(post(client.chance.choice(["upper", "obey"]), b"sleep 0.01"))
    client.close()
    return True


KINDS: dict[Callable[[Client], bool], int] = {
    good: 780,
    rows: 100,
    hurried: 20,
    obeyed: 38,
    large: 5,
    raises: 20,
    lethal(b"die"): 1,
    lethal(b"sleep 60"): 1,
    leaves_before_its_body_has_arrived: 10,
    leaves_before_its_answer: 10,
    refused(post("nobody", b"x"), 404): 5,
    refused(b"no HTTP at all\r\n\r\n", 400): 4,
    refused(post("upper", b"").replace(b"length: 0", b"length: 9999999999"), 413): 3,
    refused(post("upper", b"no parts", "content-type: multipart/form-data; boundary=x\r\n"), 400): 3,
}  # and how many of a thousand


@dataclass(frozen=True)
class Holdings:
    """What the server holds when nothing is asked of it."""

    slots: float
    loaned_bytes: float
    processes: int
    descriptors: Counter[str]  # of all its processes, by what they are of


def holdings(server: Server) -> Holdings:
    """Look at the server from outside, over a connection that ends with it."""
    with urllib.request.urlopen(server.url("metrics", "/metrics"), timeout=PATIENCE) as answer:
        text = answer.read().decode()
    slots, loaned = (
        float(re.search(rf"^wfserve_arena_{name} (\S+)$", text, re.MULTILINE)[1])
        for name in ("slots", "loaned_bytes")
    )
    family = {server.process.pid} | server.descendants()
    return Holdings(slots, loaned, len(family), sum(map(descriptors, family), Counter()))


def descriptors(pid: int) -> Counter[str]:
    """Count a process's descriptors by what they are of; none if it is gone meanwhile."""
    found: Counter[str] = Counter()
    with contextlib.suppress(OSError):
        for each in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                found[re.sub(r"\d+", "N", os.readlink(each))] += 1
    return found


def resident_mib(server: Server) -> float:
    pages = int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGESIZE") / 2**20


class Soak:
    """Clients that work off a number of requests together, and somebody who kills workers meanwhile."""

    def __init__(self, server: Server, requests: int, seed: int) -> None:
        self.server = server
        self.numbers = iter(range(1, requests + 1))
        self.chance = random.Random(seed)
        self.lock = threading.Lock()
        self.wrong: Counter[str] = Counter()
        self.began = time.monotonic()

    def run(self, clients: int) -> None:
        with ThreadPoolExecutor(clients) as pool:
            seeds = [self.chance.getrandbits(32) for _ in range(clients)]
            for each in [pool.submit(self.work, seed) for seed in seeds]:
                each.result()

    def work(self, seed: int) -> None:
        client = Client(self.server.ports["inference"], seed)
        kinds, weights = list(KINDS), list(itertools.accumulate(KINDS.values()))
        while (number := self.next()) is not None:
            self.interfere(number)
            kind = client.chance.choices(kinds, cum_weights=weights)[0]
            if not kind(client):
                with self.lock:
                    self.wrong[kind.__qualname__] += 1
        client.close()

    def next(self) -> int | None:
        with self.lock:
            return next(self.numbers, None)

    def interfere(self, number: int) -> None:
        if number % KILL_EVERY == 0:
            victim = self.chance.choice(sorted(workers(self.server)))
            with contextlib.suppress(ProcessLookupError):
                os.kill(victim, signal.SIGKILL)
        if number % REPORT_EVERY == 0:
            rate = number / (time.monotonic() - self.began)
            print(
                f"{number:9} requests, {rate:.0f}/s, server {resident_mib(self.server):.0f} MiB", flush=True
            )


def workers(server: Server) -> set[int]:
    """Workers lead process groups; the fork server and the resource tracker do not."""
    found = set()
    for pid in server.descendants():
        with contextlib.suppress(ProcessLookupError):
            if os.getpgid(pid) == pid:
                found.add(pid)
    return found


def warm_up(server: Server) -> None:
    """Do everything once, so that what is made for good has been made."""
    client = Client(server.ports["inference"], 0)
    for kind in KINDS:
        assert kind(client), kind.__qualname__
    client.close()


def settled(server: Server, wanted: Holdings | None = None) -> Holdings:
    """Wait until two looks a second apart agree, with `wanted` if that can be; return what was seen."""
    deadline = time.monotonic() + PATIENCE
    last, now = None, holdings(server)
    while now not in (wanted or last,) and time.monotonic() < deadline:
        time.sleep(1.0)  # the pace at which it is looked at
        last, now = now, holdings(server)
    return now


def main() -> None:
    """Soak a server, and say what is different afterwards."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--requests", type=int, default=1_000_000, help="(default: %(default)s)")
    parser.add_argument("--clients", type=int, default=16, help="(default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1, help="(default: %(default)s)")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        store = Path(scratch)
        pack_handler(store, "firsts", FIRSTS)
        for name, spec in WORKFLOWS.items():
            pack(store, name, spec)
        with Server(store, store, max_request_size=1_000_000) as server:
            for name in WORKFLOWS:
                server.register(f"{name}.war")
            server.client.close()
            warm_up(server)
            before, resident = settled(server), resident_mib(server)
            soak = Soak(server, arguments.requests, arguments.seed)
            soak.run(arguments.clients)
            after = settled(server, before)
            print(f"the server has grown from {resident:.0f} to {resident_mib(server):.0f} MiB")
    report(before, after, soak.wrong)


def report(before: Holdings, after: Holdings, wrong: Counter[str]) -> None:
    """Print what is held, and end with an error if that or an answer is not as it must be."""
    for name, began in vars(before).items():
        ended = getattr(after, name)
        print(f"{name:14} {began}" if began == ended else f"{name:14} {began}\n{'':9} now  {ended}")
    if wrong or before != after:
        raise SystemExit(f"wrong answers: {dict(wrong)}; as before: {before == after}")


if __name__ == "__main__":
    main()
