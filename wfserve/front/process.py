"""A front end process: it answers on the inference port, and ends with its supervisor, however that ends.

`python -m wfserve.front.process FD` is started by `supervise`; FD is its end of a channel.
"""

from __future__ import annotations

import logging
import os
import signal
import socket
import sys
from contextlib import suppress
from pathlib import Path

import trio

from wfserve import _native
from wfserve.asgi import log_to_stderr
from wfserve.front.asking import Questions
from wfserve.front.carriers import carry_one
from wfserve.front.messages import (
    Answer,
    Ask,
    Counted,
    Listen,
    Listening,
    NewKeys,
    Ready,
    Recorded,
    Show,
    Start,
    Stop,
    Told,
)
from wfserve.front.serving import Front
from wfserve.http.apis import Apis
from wfserve.http.auth import Tokens
from wfserve.http.cors import cors_headers
from wfserve.http.metrics import counted
from wfserve.http.refusal import OwnAnswers
from wfserve.registry.opening import keep_trim, spare_collections
from wfserve.transport.channel import Channel
from wfserve.transport.shm import ShmTransport
from wfserve.workers.borrowing import Borrower

log = logging.getLogger(__name__)


def main() -> None:
    """Be a front end until the supervisor says stop, or is gone."""
    log_to_stderr()
    trio.run(_serve, socket.socket(fileno=int(sys.argv[1])))


async def _serve(sock: socket.socket) -> None:
    channel = Channel(sock)
    with suppress(trio.EndOfChannel):
        start, (supervisor,) = await channel.receive()
        _native.watch_parent(supervisor)
        os.close(supervisor)
        _name_process(f"wf:front {start.number}")
        with ShmTransport(start.arena_bytes, start.segment) as transport:
            await _FrontEnd(start, channel, transport).run()
    channel.close()


def _name_process(name: str) -> None:
    with suppress(OSError):  # it is only for those who look at processes
        Path("/proc/self/comm").write_text(name, encoding="utf-8")


class _FrontEnd:
    """What one front end does, and what it is told."""

    def __init__(self, start: Start, channel: Channel, transport: ShmTransport) -> None:
        self._config = start.config
        self._channel = channel
        self._transport = transport
        self._borrower = Borrower(channel.send)
        self._questions = Questions(channel.send)
        self._tokens = Tokens(start.config.key_file, start.config.token_expiration)
        self._tokens.keys = start.keys
        self._stop = trio.Event()
        self._listening = False

    async def run(self) -> None:
        """Serve until told to stop."""
        async with trio.open_nursery() as wires:
            wires.start_soon(self._channel.run)
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                self._front = Front(
                    self._config,
                    self._transport,
                    nursery,
                    self._borrower,
                    self._questions,
                    self._mention,
                )
                nursery.start_soon(keep_trim, self._transport.arena)
                await wires.start(self._stop_on_signal)
                wires.start_soon(self._hear)
                spare_collections()
                self._channel.send(Ready(), self._transport.arena.fd)
            wires.cancel_scope.cancel()

    async def _hear(self) -> None:
        with suppress(trio.EndOfChannel):
            while True:
                self._obey(*await self._channel.receive())
        os._exit(1)  # the supervisor is gone, and with it all workers

    def _obey(self, message: object, fds: list[int]) -> None:
        match message:
            case Show():
                self._nursery.start_soon(self._show, message)
            case Listen():
                self._nursery.start_soon(self._listen, socket.socket(fileno=fds[0]))
            case NewKeys(keys):
                self._tokens.keys = keys
            case Ask(ticket, "alive"):
                self._channel.send(Answer(ticket, True))
            case Ask(ticket):
                self._nursery.start_soon(self._count, ticket)
            case Answer():
                self._questions.hear(message)
            case Stop():
                self._end()
            case _:
                self._borrower.hear(message, fds)  # type: ignore[arg-type]  # there is nothing else

    async def _show(self, show: Show) -> None:
        await self._front.show(show)
        self._channel.send(Told(show.number))

    async def _count(self, ticket: int) -> None:
        self._mention(Answer(ticket, await counted(self._front)))

    def _mention(self, message: Answer | Counted | Recorded) -> None:
        """Say something long, for which no descriptor may be left: the supervisor can do without."""
        try:
            self._channel.send(message)
        except OSError as error:
            log.error("the supervisor cannot be told what was counted or recorded: %s", error.strerror)

    async def _listen(self, listener: socket.socket) -> None:
        """Serve the inference API, and then end this process."""
        config, app = self._config, Apis(self._front, self._tokens)
        own = OwnAnswers(cors_headers(config), self._front.responses.count)

        async def carry(*, task_status: trio.TaskStatus[None]) -> None:
            address = config.inference_address
            await carry_one(app, own, address, listener, config, stop=self._stop, task_status=task_status)
            self._mention(Counted(await counted(self._front)))
            self._nursery.cancel_scope.cancel()

        await self._nursery.start(carry)
        self._listening = True
        self._channel.send(Listening())

    def _end(self) -> None:
        self._stop.set()
        if not self._listening:
            self._nursery.cancel_scope.cancel()

    async def _stop_on_signal(self, *, task_status: trio.TaskStatus[None]) -> None:
        with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
            task_status.started()
            async for _ in signals:
                self._end()


if __name__ == "__main__":
    main()
