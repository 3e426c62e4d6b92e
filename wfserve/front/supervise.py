"""A supervisor keeps its front ends: one that dies is replaced, and costs its own requests alone.

    Start ──▶ Ready ──▶ everything is shown ──▶ Listen: only now connections come

It alone changes what is served and owns the workers. A front end that does not do in time what it is told is
killed: whoever waits for a change then knows that nobody serves what was before.
"""

from __future__ import annotations

import itertools
import logging
import os
import socket
import sys
from functools import partial
from subprocess import Popen
from typing import TYPE_CHECKING

import trio

from wfserve.errors import ConfigError
from wfserve.front.asking import Questions
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
    Shown,
    Start,
    Stop,
    Told,
)
from wfserve.measure.family import lasting, without
from wfserve.transport.channel import Channel
from wfserve.workers.keeping import restart_delay

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from wfserve.http.auth import Tokens
    from wfserve.http.sharing import SharedAddress
    from wfserve.measure.family import Family, Labels
    from wfserve.registry.catalogue import Registry
    from wfserve.workers.lending import Lender

log = logging.getLogger(__name__)
FIRST_SEGMENT = 16  # of a front end; lower numbers are the supervisor's own
OBEDIENCE = 20.0  # seconds for a front end to do what it is told, or to say that it is alive
REST = 10.0  # seconds until it is asked for that again
STEADY = 30.0  # seconds that one has lived whose death is no reason to wait before the next
STOP_GRACE = 5.0  # seconds for a front end to end, once it has answered what it had accepted


class FrontEnd:
    """One front end process, until it is dead."""

    def __init__(self, number: int, segment: int, channel: Channel, process: Popen[bytes]) -> None:
        self.number = number
        self.segment = segment
        self.segment_fd = -1
        self.channel = channel
        self.questions = Questions(self.send)
        self.counted: list[Family] = []  # what it said last
        self.dead = False
        self._process = process
        self._untold: set[int] = set()  # numbers of what was shown and has not been done
        self._news = trio.Event()

    def send(self, message: object, *fds: int) -> None:
        """Tell it something; one that cannot be told any more is killed."""
        try:
            self.channel.send(message, *fds)
        except (BufferError, OSError) as error:
            log.error("front end %d: %s", self.number, error)
            self.kill()

    def show(self, show: Show) -> None:
        """Have it serve something."""
        self._untold.add(show.number)
        self.send(show)

    def did(self, number: int) -> None:
        """Take note that it has."""
        self._untold.discard(number)
        self.tell()

    def tell(self) -> None:
        """Have whoever waits look again."""
        self._news.set()
        self._news = trio.Event()

    async def until(self, holds: Callable[[], bool]) -> None:
        """Return when that holds, or it is dead."""
        while not (self.dead or holds()):
            await self._news.wait()

    async def told(self) -> None:
        """Return when it does all that it was shown, or is dead: it is killed if that takes too long."""
        shown = frozenset(self._untold)
        with trio.move_on_after(OBEDIENCE) as waited:
            await self.until(lambda: shown.isdisjoint(self._untold))
        if waited.cancelled_caught:
            log.error("front end %d does not do what it is told and is replaced", self.number)
            self.kill()
            await self.until(lambda: False)

    async def watch(self) -> None:
        """Ask it now and then whether it is alive, and kill it if it does not say so: clients wait for it."""
        while True:
            await trio.sleep(REST)
            with trio.move_on_after(OBEDIENCE) as waited:
                while not await self.questions.ask("alive"):
                    pass
            if waited.cancelled_caught:
                log.error("front end %d says nothing any more and is replaced", self.number)
                self.kill()

    def kill(self) -> None:
        """Kill it; what it served is gone from then on."""
        self._process.kill()

    async def reap(self) -> None:
        """Kill it if need be, and return when nothing is left of it."""
        self.dead = True
        self.kill()
        await trio.to_thread.run_sync(self._process.wait)
        self.channel.close()
        if self.segment_fd >= 0:
            os.close(self.segment_fd)
        self.tell()


class FrontEnds:
    """The front ends of one server, until `stop`; they listen on `address` and know the keys of `tokens`."""

    def __init__(
        self, registry: Registry, lender: Lender, address: SharedAddress, tokens: Tokens, stop: trio.Event
    ) -> None:
        self._registry = registry
        self._lender = lender
        self._address = address
        self._tokens = tokens
        self._fronts: list[FrontEnd] = []  # that have made their segments
        self._segments = itertools.count(FIRST_SEGMENT)
        self._shows = itertools.count(1)
        self._past: list[Family] = []  # what those counted that are dead
        self._stop = stop
        self._listened: set[int] = set()  # numbers of those that have begun
        self._all_listen = trio.Event()
        tokens.on_renewal = self._renew_keys

    async def run(self, *, task_status: trio.TaskStatus[None]) -> None:
        """Keep front ends until `stop` is set and each has answered what it had accepted.

        `started` once all listen, or `stop` is set. Raises `ConfigError` if one ends before.
        """
        config = self._registry.config
        async with trio.open_nursery() as nursery:
            for number in range(config.processes):
                nursery.start_soon(self._keep, number)
            await _first_of(self._all_listen, self._stop)
            task_status.started()
            await self._stop.wait()
            for front in self._fronts:
                front.send(Stop())
            nursery.cancel_scope.deadline = trio.current_time() + config.stop_timeout + STOP_GRACE

    async def _keep(self, number: int) -> None:
        """Start one front end after another."""
        deaths = 0
        while True:
            began = trio.current_time()
            try:
                await self._live(number)
            except OSError as error:  # no process or descriptor is left for it
                log.error("front end %d cannot be started: %s", number, error.strerror)
            if self._stop.is_set():
                return
            if number not in self._listened:
                raise ConfigError(f"front end {number} does not start")
            deaths = 0 if trio.current_time() - began > STEADY else deaths + 1
            delay = restart_delay(deaths)
            log.error("front end %d has ended, another takes its place in %.1f s", number, delay)
            with trio.move_on_after(delay):
                await self._stop.wait()

    async def _live(self, number: int) -> None:
        """Run one front end from its start until nothing is left of it."""
        near, far = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with far:
            try:
                process = await trio.to_thread.run_sync(_started, far.fileno())
            except BaseException:
                near.close()
                raise
        front = FrontEnd(number, next(self._segments), Channel(near), process)
        try:
            self._start(front)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(front.channel.run)
                await self._hear(front, nursery)
                nursery.cancel_scope.cancel()
        finally:
            with trio.CancelScope(shield=True):
                await front.reap()
                self._bury(front)

    def _start(self, front: FrontEnd) -> None:
        config = self._registry.config
        share = self._registry.arena.statistics().limit_bytes
        server = os.pidfd_open(os.getpid())
        try:
            front.send(Start(front.number, config, front.segment, share, self._tokens.keys), server)
        finally:
            os.close(server)

    def _bury(self, front: FrontEnd) -> None:
        if front in self._fronts:
            self._fronts.remove(front)
            self._lender.lost(front)
            self._past = lasting([self._past, front.counted])

    async def _hear(self, front: FrontEnd, nursery: trio.Nursery) -> None:
        """Do what a front end says, until it is dead."""
        while True:
            try:
                message, fds = await front.channel.receive()
            except trio.EndOfChannel:
                return
            match message:
                case Ready() if fds:
                    (front.segment_fd,) = fds
                    nursery.start_soon(self._introduce, front)
                    nursery.start_soon(front.watch)
                case Ready():
                    log.error("front end %d: no descriptor is left for its memory", front.number)
                    return
                case Told(number):
                    front.did(number)
                case Listening():
                    self._listens(front)
                case Ask(ticket):
                    nursery.start_soon(self._answer, front, ticket)
                case Answer():
                    front.questions.hear(message)
                case Counted(families):
                    front.counted = families
                case Recorded(name, body, headers):
                    self._record(name, body, headers)
                case _:
                    self._lender.hear(front, message)

    def _listens(self, front: FrontEnd) -> None:
        self._listened.add(front.number)
        if len(self._listened) == self._registry.config.processes:
            self._all_listen.set()

    async def _introduce(self, front: FrontEnd) -> None:
        """Show a new front end everything, and then have it listen."""
        self._fronts.append(front)
        for served in self._registry.names:
            front.show(self._show(served.name))
        await front.told()
        if self._stop.is_set():
            front.send(Stop())
        elif not front.dead:
            self._have_listen(front)

    def _have_listen(self, front: FrontEnd) -> None:
        try:
            with self._address.listener() as listener:
                front.send(Listen(), listener.fileno())
        except OSError as error:
            log.error("front end %d cannot listen: %s", front.number, error.strerror)
            front.kill()

    async def _answer(self, front: FrontEnd, ticket: int) -> None:
        front.send(Answer(ticket, await self._registry.health()))

    def _show(self, name: str) -> Show:
        served = self._registry.find(name)
        if served is None:
            return Show(next(self._shows), name, None)
        versions = {version: workflow.lent() for version, workflow in served.running.items()}
        return Show(next(self._shows), name, Shown(served.record, versions))

    def announce(self, name: str) -> None:
        """Have all front ends serve what the registry serves as `name`."""
        if self._registry.find(name) is None:
            concerned = partial(_is_of, name)
            self._past = without(self._past, concerned)
            for front in self._fronts:
                front.counted = without(front.counted, concerned)
        if self._fronts:
            show = self._show(name)
            for front in self._fronts:
                front.show(show)

    async def told(self) -> None:
        """Return when every front end serves what has been announced, or is dead."""
        async with trio.open_nursery() as nursery:
            for front in self._fronts:
                nursery.start_soon(front.told)

    async def families(self) -> list[list[Family]]:
        """Return what every front end has counted, those that are dead included.

        One that does not answer in time is shown as it was.
        """
        async with trio.open_nursery() as nursery:
            for front in self._fronts:
                nursery.start_soon(self._count, front)
        return [*(front.counted for front in self._fronts), self._past]

    async def _count(self, front: FrontEnd) -> None:
        families = await front.questions.ask("families")
        if isinstance(families, list):
            front.counted = families

    def _record(self, name: str, body: bytes, headers: Mapping[str, str]) -> None:
        """Keep a request that a front end has answered as a sample, if one is still looked for."""
        served = self._registry.find(name)
        workflow = None if served is None else served.running.get(served.record.default)
        if served is not None and workflow is not None and served.record.recording:
            self._registry.samples.record_soon(workflow, body, headers)

    def _renew_keys(self) -> None:
        for front in self._fronts:
            front.send(NewKeys(self._tokens.keys))


def _is_of(name: str, labels: Labels) -> bool:
    """Whether a sample is of a workflow of that name, or one of its nodes."""
    return any(
        (label == "workflow" and value == name) or (label == "model_name" and value.startswith(f"{name}__"))
        for label, value in labels.pairs
    )


def _started(fd: int) -> Popen[bytes]:
    """Start a front end whose end of its channel is `fd`. Blocks. Raises `OSError`."""
    command = [sys.executable, "-P", "-m", "wfserve.front.process", str(fd)]
    return Popen(command, pass_fds=[fd], process_group=0)  # what a terminal sends is for the supervisor


async def _first_of(*events: trio.Event) -> None:
    """Return when one of `events` has been set."""
    async with trio.open_nursery() as nursery:

        async def wait(event: trio.Event) -> None:
            await event.wait()
            nursery.cancel_scope.cancel()

        for event in events:
            nursery.start_soon(wait, event)
