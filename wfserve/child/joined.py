"""A worker of several processes answers a batch of each in turn, and touches nothing of one that it has left.

    JOIN ──▶ GRANT (scratch) ──▶ READY ──▶ CALL ──▶ DONE … ──▶ STOP ──▶ LEFT
    first    ╰────────────── on the link that was joined ─────────────╯

Each process has its own rings, segment and scratch memory, and numbers its batches by itself. A batch that
waits while another process's runs is told by the scratch memory: the worker says when it begins, and does not
if the process has withdrawn it by then (DROPPED).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from wfserve.child.results import Stopped
from wfserve.errors import FrameError
from wfserve.transport import progress
from wfserve.transport.base import NOWHERE, ChildLink, Message, MessageKind

if TYPE_CHECKING:
    from collections.abc import Callable

FIRST = 0  # number of the link to the process that started this one


class JoinableLink(ChildLink, Protocol):
    """The link to the process that has started this one, through which others come."""

    def join(self, segment: int) -> ChildLink:
        """Return a link to the process that owns `segment`, which is heard from now on."""

    def leave(self, segment: int) -> None:
        """Hear that process no more."""

    def receive_any(self) -> tuple[int, Message]:
        """Wait for a message of any process; return its segment, `FIRST` for the first, and the message."""


class Answering(Protocol):
    """Answers the batches of one process."""

    def answer(self, message: Message) -> None:
        """Answer one CALL. Raises `Stopped` if the process says STOP meanwhile."""


class Host:
    """A process whose batches are answered, and the scratch memory that it has lent."""

    def __init__(self, answering: Answering, scratch: memoryview) -> None:
        self.answering = answering
        self.scratch = scratch


class Joined:
    """The links of one worker, the first of them to `host`.

    `begin` makes what answers on a link, given scratch memory that was lent there.
    """

    def __init__(
        self,
        first: JoinableLink,
        host: Host,
        begin: Callable[[ChildLink, memoryview], Answering],
    ) -> None:
        self._first = first
        self._begin = begin
        self._links: dict[int, ChildLink] = {FIRST: first}
        self._hosts = {FIRST: host}

    def serve(self, message: Message) -> None:
        """Obey `message` and all that follow, until the first process says STOP."""
        number = FIRST
        while number != FIRST or message.kind != MessageKind.STOP:
            self._obey(number, message)
            number, message = self._first.receive_any()

    def _obey(self, number: int, message: Message) -> None:
        match message.kind:
            case MessageKind.CALL:
                self._answer(number, self._hosts[number], message)
            case MessageKind.JOIN if number == FIRST:
                segment = message.descriptor.segment
                self._links[segment] = self._first.join(segment)
            case MessageKind.GRANT:
                link = self._links[number]
                scratch = link.map(message.descriptor)
                self._hosts[number] = Host(self._begin(link, scratch), scratch)
                link.send(Message(MessageKind.READY, 0, NOWHERE))
            case MessageKind.STOP:
                self._leave(number)
            case _:
                raise FrameError(f"message {message.kind} is not for a worker")

    def _answer(self, number: int, host: Host, message: Message) -> None:
        if progress.withdrawn(host.scratch, message.tag):
            self._links[number].send(Message(MessageKind.DROPPED, message.tag, NOWHERE))
            return
        progress.note(host.scratch, message.tag, 0)
        try:
            host.answering.answer(message)
        except Stopped:
            if number == FIRST:
                raise
            self._leave(number)

    def _leave(self, number: int) -> None:
        self._first.leave(number)
        self._hosts.pop(number, None)
        self._links.pop(number).send(Message(MessageKind.LEFT, 0, NOWHERE))
