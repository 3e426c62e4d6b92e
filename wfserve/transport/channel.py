"""Messages between two processes of one server arrive whole and in order, and whoever sends never waits.

A message is any value of ours, pickled, with file descriptors beside it. What is too long for one datagram
lies in a file in memory whose descriptor goes along. Both ends run the same code of the same user: this is no
way to hear a worker, or a client.
"""

from __future__ import annotations

import os
import pickle
import socket
import struct
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Sequence

MOST_WAITING: Final = 100_000  # messages that the other end has not taken
LONGEST: Final = 64 * 1024  # bytes of a datagram
MOST_FDS: Final = 8
_INLINE, _IN_FILE = b"\0", b"\1"


class _Datagram(NamedTuple):
    data: bytes
    fds: tuple[int, ...]  # ours, until it is sent


class Channel:
    """One end. `run` must be running for messages to leave that the other end is slow to take."""

    def __init__(self, sock: socket.socket) -> None:
        sock.setblocking(False)
        self._socket = sock
        self._waiting: deque[_Datagram] = deque()
        self._more = trio.Event()
        self._broken = False

    def send(self, message: object, *fds: int) -> None:
        """Send `message`, with duplicates of `fds`; lost if the other end is gone, of which `receive` tells.

        Raises `BufferError` if the other end takes nothing any more, and `OSError` if there is no descriptor
        left for `fds`, or for a message that is too long for one datagram.
        """
        if self._broken:
            return
        if len(self._waiting) >= MOST_WAITING:
            raise BufferError("The other process takes no messages any more")
        self._waiting.append(_datagram(message, fds))
        if len(self._waiting) == 1 and not self._send_first():
            self._more.set()

    def _send_first(self) -> bool:
        """Send what has waited longest, if the other end takes it now."""
        first = self._waiting[0]
        try:
            socket.send_fds(self._socket, [first.data], first.fds)
        except BlockingIOError:
            return False
        except OSError:  # the other end is gone
            self._broken = True
            self._drop()
            return True
        _close(self._waiting.popleft().fds)
        return True

    async def run(self) -> None:
        """Send what has to wait, until cancelled."""
        while True:
            while self._waiting:
                await trio.lowlevel.wait_writable(self._socket)
                while self._waiting and self._send_first():
                    pass
            self._more = trio.Event()
            await self._more.wait()

    async def receive(self) -> tuple[Any, list[int]]:
        """Return the next message and its descriptors, the caller's now; fewer if there is no room for more.

        Raises `trio.EndOfChannel` when the other end is gone, or what it says cannot be read for that reason.
        """
        while True:
            await trio.lowlevel.wait_readable(self._socket)
            try:
                data, fds = receive_fds(self._socket, LONGEST, MOST_FDS)
            except BlockingIOError:
                continue
            except OSError:
                data, fds = b"", []
            if not data or (data == _IN_FILE and not fds):
                raise trio.EndOfChannel
            return _message(data, fds), fds

    def _drop(self) -> None:
        while self._waiting:
            _close(self._waiting.popleft().fds)

    def close(self) -> None:
        """Hang up; what has not been sent is lost. Idempotent."""
        self._drop()
        self._broken = True
        if self._socket.fileno() >= 0:
            trio.lowlevel.notify_closing(self._socket)
            self._socket.close()


def receive_fds(sock: socket.socket, nbytes: int, most: int) -> tuple[bytes, list[int]]:
    """Return a datagram and its descriptors, which nothing inherits that is started meanwhile.

    `socket.recv_fds` of Python 3.11 overlooks the flag for that. Raises `OSError`.
    """
    size = struct.calcsize("i")
    data, ancillary, _, _ = sock.recvmsg(nbytes, socket.CMSG_SPACE(most * size), socket.MSG_CMSG_CLOEXEC)
    packed = b"".join(each for _, kind, each in ancillary if kind == socket.SCM_RIGHTS)
    return data, [fd for (fd,) in struct.iter_unpack("i", packed)]


def _message(data: bytes, fds: list[int]) -> object:
    """Return the message of a datagram; takes the descriptor out of `fds` that it lies behind."""
    if data[:1] == _INLINE:
        return pickle.loads(data[1:])
    with open(fds.pop(), "rb") as file:
        return pickle.load(file)


def _datagram(message: object, fds: Sequence[int]) -> _Datagram:
    data = pickle.dumps(message, pickle.HIGHEST_PROTOCOL)
    if len(data) < LONGEST:
        return _Datagram(_INLINE + data, _duplicates(fds))
    file = os.memfd_create("wfserve-message", os.MFD_CLOEXEC)
    try:
        with open(file, "wb", closefd=False) as whole:
            whole.write(data)
        os.lseek(file, 0, os.SEEK_SET)
        return _Datagram(_IN_FILE, (*_duplicates(fds), file))
    except OSError:
        os.close(file)
        raise


def _duplicates(fds: Sequence[int]) -> tuple[int, ...]:
    made: list[int] = []
    try:
        for fd in fds:
            made.append(os.dup(fd))  # noqa: PERF401 - those made before one fails are to be closed
    except OSError:
        _close(made)
        raise
    return tuple(made)


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)
