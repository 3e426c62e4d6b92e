"""Holds kept-alive connections that have had one answer each, until its standard input ends.

    python -m bench.comparison.idle PORT COUNT

It writes a line when all are open.
"""

from __future__ import annotations

import contextlib
import resource
import socket
import sys
from contextlib import ExitStack

PATIENCE = 10.0  # seconds for one answer


def raise_limit() -> None:
    """Let this process, and those it will start, have as many open files as the system lets them."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    with contextlib.suppress(ValueError):  # "infinity", where the system has a bound of its own
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def connect(port: int) -> socket.socket:
    """Return a connection on which `/ping` has been answered."""
    connection = socket.create_connection(("127.0.0.1", port), PATIENCE)
    connection.sendall(b"GET /ping HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    if not connection.recv(4096).startswith(b"HTTP/1.1 200"):
        raise ConnectionError("the server has no answer to /ping")
    return connection


def main() -> None:
    """Hold the connections that the command line asks for."""
    port, count = map(int, sys.argv[1:])
    raise_limit()
    with ExitStack() as stack:
        for _ in range(count):
            stack.enter_context(connect(port))
        print("open", flush=True)
        sys.stdin.read()


if __name__ == "__main__":
    main()
