"""A child that runs is joined by further processes of its server, each with a segment and rings of its own.

    first process ──JOIN, and descriptors through a socket──▶ child     rings are made by the first,
          └────── the same descriptors ──────▶ another ──────▶ child    and used by one other

The child reads all of its rings in turn and sleeps on the word of the first ones, which every producer knows.
Whoever is joined shares nothing with the others but that word.
"""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING, Final, NamedTuple

from wfserve import _native
from wfserve.transport.base import BRIEF_SPIN, Descriptor, Message, MessageKind
from wfserve.transport.channel import receive_fds
from wfserve.transport.shm import ShmChildLink, ShmLink, ShmPort, ShmTransport, carried_fds

if TYPE_CHECKING:
    from wfserve.transport.shm import CarriedFd, Places

FIRST: Final = 0  # number of a child's own link; others have their segments'
_FDS: Final = 3  # of rings, doorbell and segment


class Rings(NamedTuple):
    """What one more process needs to talk to a child: descriptors that stay their owner's."""

    memory: int
    doorbell: int
    first: int  # memory of the child's first rings

    def link(self) -> JoinedLink:
        """Return the server's end, which goes on where another process has stopped. Raises `OSError`."""
        return JoinedLink(_native.ServerEnd(*self))


class JoinedLink(ShmLink):
    """The server's end of rings that were made by another process."""

    @property
    def child_sleeps(self) -> bool:
        """Whether the child waits for messages, of whichever process."""
        return self._open_end().child_sleeps


class Introduction:
    """The rings between a child and one more process, as the first process keeps them."""

    def __init__(self, first: int) -> None:
        self._end = _native.ServerEnd(first)
        self.rings = Rings(self._end.memory_fd, self._end.doorbell_fd, first)

    @property
    def written(self) -> int:
        """How many messages the child says that it has sent there."""
        return self._end.written


class JoinableLink(ShmLink):
    """The first process's end of a child that others may join."""

    def __init__(self) -> None:
        super().__init__()
        self._door, self.childs_door = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._door.setblocking(False)

    def introduce(self, segment: int, segment_fd: int) -> Introduction:
        """Have the child join the process that owns `segment`.

        Raises `OSError`, `FrameError`, or `BufferError` if the child does not take what it has got before.
        """
        made = Introduction(self.fds[0])
        try:
            socket.send_fds(self._door, [b"\0"], [made.rings.memory, made.rings.doorbell, segment_fd])
        except BlockingIOError:
            raise BufferError("The child joins nobody any more") from None
        self.send(Message(MessageKind.JOIN, 0, Descriptor(segment, 0, 0)))
        return made

    def close(self) -> None:
        """Unmap the rings; what was introduced stays."""
        super().close()
        self._door.close()
        self.childs_door.close()


class JoinablePort(ShmPort):
    """A port with a door: the child's end of the socket that descriptors come through."""

    def __init__(self, places: Places, fds: tuple[int, ...]) -> None:
        *others, self._door = fds
        super().__init__(places, tuple(others))

    def __reduce__(self) -> tuple[object, ...]:
        return _carry, (self._places, *carried_fds((*self._fds, self._door)))

    def attach(self) -> JoinableChildLink:
        """Map the segments and the rings, once, in the child."""
        links = super().attach()
        return JoinableChildLink(links, os.dup(self._fds[0]), socket.socket(fileno=os.dup(self._door)))


class _CarriedPort(JoinablePort):
    """A port that has arrived: the descriptors are its own, and closed once they are mapped."""

    def attach(self) -> JoinableChildLink:
        try:
            return super().attach()
        finally:
            for fd in (*self._fds, self._door):
                os.close(fd)


def _carry(places: Places, *fds: CarriedFd) -> JoinablePort:
    return _CarriedPort(places, tuple(fd.detach() for fd in fds))


class JoinableChildLink(ShmChildLink):
    """The child's first link, and its turns with those that it has joined."""

    def __init__(self, first: ShmChildLink, memory: int, door: socket.socket) -> None:
        super().__init__(first.segments, first.end, first.pinned_place)
        self._memory = memory
        self._door = door
        self._ends = _native.ChildEnds()
        self._ends.add(FIRST, first.end)

    def join(self, segment: int) -> ShmChildLink:
        """Map the rings and the segment that have come through the door. Raises `OSError`."""
        _, fds = receive_fds(self._door, 1, _FDS)
        try:
            memory, doorbell, segment_fd = fds
            end = _native.ChildEnd(memory, doorbell, self._memory)
            joined = ShmChildLink({segment: _native.SegmentMap(segment_fd)}, end, None)
        finally:
            for fd in fds:
                os.close(fd)
        self._ends.add(segment, end)
        return joined

    def leave(self, segment: int) -> None:
        """Hear a link no more; what is still looked at of its segment stays mapped."""
        self._ends.remove(segment)

    def receive_any(self) -> tuple[int, Message]:
        """Wait for a message, without the GIL; return the number of its link, and it. Links take turns.

        For a moment awake only: that the worker sleeps tells the others that it is idle for all.
        """
        return self._ends.receive(BRIEF_SPIN)

    def close(self) -> None:
        """Join nobody any more."""
        self._door.close()
        os.close(self._memory)


class JoinableTransport(ShmTransport):
    """The transport of the process that starts children which others join."""

    def connect(self) -> tuple[JoinableLink, JoinablePort]:
        """Make a pair of rings; the link must stay open until the child has started."""
        link = JoinableLink()
        places, fds = self.places(link)
        return link, JoinablePort(places, (*fds, link.childs_door.fileno()))
