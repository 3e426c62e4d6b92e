"""What the children of the transport's tests do; each of these runs in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from typing import Any

from wfserve import _native
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind


def echo(port: Any) -> None:
    """Send every message back, until told to stop."""
    link = port.attach()
    while (message := link.receive()).kind != MessageKind.STOP:
        link.send(Message(MessageKind.DONE, message.tag, message.descriptor))


def echo_to_all(port: Any) -> None:
    """Send every message back to whom it came from; behind one with a byte, be busy until that is set."""
    first = port.attach()
    links = {0: first}
    while True:
        number, message = first.receive_any()
        if message.kind == MessageKind.JOIN:
            links[message.descriptor.segment] = first.join(message.descriptor.segment)
            continue
        links[number].send(message)
        if message.descriptor.length:
            view = links[number].map(message.descriptor)
            while not view[0]:
                time.sleep(0.001)


def log_turns(port: Any) -> None:
    """After a first message, tell the first process whose messages come, in order."""
    first = port.attach()
    for _ in range(2):
        first.join(first.receive().descriptor.segment)
    first.receive()
    while True:
        number, _ = first.receive_any()
        first.send(Message(MessageKind.DONE, number, NOWHERE))


def turn_around(port: Any) -> None:
    """Turn the bytes of every message around, in place."""
    first = port.attach()
    links = {0: first}
    while True:
        number, message = first.receive_any()
        if message.kind == MessageKind.JOIN:
            links[message.descriptor.segment] = first.join(message.descriptor.segment)
            continue
        view = links[number].map(message.descriptor)
        view[:] = bytes(view)[::-1]
        links[number].send(message)


def answer_in_pinned(port: Any, place: Descriptor) -> None:
    """Turn the bytes at `place` around, and say how long the pinned segment is; then wait to be killed."""
    link = port.attach()
    view = link.map(place._replace(length=8))
    view[:] = bytes(view)[::-1]
    link.send(Message(MessageKind.DONE, link.pinned.nbytes, NOWHERE))
    link.receive()


def flood(port: Any, count: int) -> None:
    """Send more than a ring holds without waiting for anything."""
    link = port.attach()
    for tag in range(count):
        link.send(Message(MessageKind.DONE, tag, NOWHERE))


def scribble(port: Any) -> None:
    """Fill every lent extent with its tag, over and over, and report it; never stops by itself."""
    link = port.attach()
    while True:
        message = link.receive()
        view = link.map(message.descriptor)
        view[:] = bytes([message.tag % 256]) * len(view)
        del view
        link.send(Message(MessageKind.DONE, message.tag, message.descriptor))


def write(port: Any, data: bytes) -> None:
    """Answer one call with `data` in its extent."""
    link = port.attach()
    segment, offset, _ = link.receive().descriptor
    place = Descriptor(segment, offset, len(data))
    link.map(place)[:] = data
    link.send(Message(MessageKind.DONE, 1, place))
    link.receive()


def hold_the_gil(pidfd: Any, report: Any) -> None:
    """Lead a group with a helper in it, watch the server, and compute without ever giving up the GIL."""
    os.setpgid(0, 0)
    _native.watch_parent(pidfd.detach())
    helper = subprocess.Popen([sys.executable, "-c", "import signal; signal.pause()"])
    os.write(report.detach(), f"{os.getpid()} {helper.pid}\n".encode())
    sum(range(10**15))


def serve_until_killed() -> None:
    """Be a server whose child holds the GIL; the test kills it."""
    import multiprocessing
    from multiprocessing.reduction import DupFd

    class Carried:
        def __init__(self, fd: int) -> None:
            self.fd = fd

        def __reduce__(self) -> tuple[object, ...]:
            return _carried, (DupFd(self.fd),)

    pidfd = os.pidfd_open(os.getpid())
    process = multiprocessing.get_context("forkserver").Process(
        target=hold_the_gil, args=(Carried(pidfd), Carried(sys.stdout.fileno()))
    )
    process.start()
    process.join()


def _carried(fd: Any) -> Any:
    return fd


if __name__ == "__main__":
    serve_until_killed()
