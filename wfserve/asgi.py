"""The one ASGI application: `hypercorn -k trio wfserve.asgi:app` and `wfserve serve` run the same.

It opens its registry in the lifespan, or uses one that is already open. Workflows load after the lifespan's
startup, which a server bounds in time; `/ping` tells when they have.
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import sys
from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import trio

from wfserve import compiled
from wfserve.config import load, remarks
from wfserve.errors import WfserveError
from wfserve.http.apis import Apis
from wfserve.http.auth import open_tokens
from wfserve.http.hypercorn import under_hypercorn
from wfserve.registry import startup
from wfserve.registry.lone import models_of
from wfserve.registry.opening import open_registry

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.config import Config
    from wfserve.http.auth import Tokens
    from wfserve.http.body import Receive, Scope
    from wfserve.http.exchange import App as AsgiApp
    from wfserve.http.respond import Send
    from wfserve.registry.catalogue import Registry

log = logging.getLogger(__name__)


class App:
    """The application of one server process."""

    def __init__(self, config: Config | None = None) -> None:
        self._config = config
        self._apis: AsgiApp | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one ASGI scope."""
        match scope["type"]:
            case "lifespan":
                await self._lifespan(receive, send)
            case "http" if self._apis is not None:
                await self._apis(scope, receive, send)
            case "websocket":
                await send({"type": "websocket.close"})
            case _:
                raise RuntimeError("wfserve needs a server that speaks the ASGI lifespan")

    @contextmanager
    def serving(self, registry: Registry, *, anywhere: bool = False) -> Iterator[Tokens]:
        """Serve `registry` while the block runs, to clients that show the tokens that it gives.

        `anywhere` says that the sockets are hypercorn's, and may listen elsewhere than is configured. Raises
        `ConfigError` if the keys of clients cannot be written.
        """
        with open_tokens(registry.config, anywhere=anywhere) as tokens:
            apis = Apis(registry, tokens)
            self._apis = under_hypercorn(apis) if anywhere else apis
            try:
                yield tokens
            finally:
                self._apis = None

    async def _lifespan(self, receive: Receive, send: Send) -> None:
        await receive()
        if self._apis is not None:  # somebody else owns the registry
            await send({"type": "lifespan.startup.complete"})
            await receive()
        else:
            log_to_stderr()
            try:
                await self._own_registry(receive, send)
            except* WfserveError as group:
                await _refuse(first_of(group), send)
        await send({"type": "lifespan.shutdown.complete"})

    async def _own_registry(self, receive: Receive, send: Send) -> None:
        config = _alone(self._config or load())
        announce(config)
        models = models_of(config)
        async with open_registry(config) as registry, trio.open_nursery() as nursery:
            nursery.start_soon(_end_with_launcher)
            with self.serving(registry, anywhere=True):
                startup.load(registry, config.load_workflows, models)
                await send({"type": "lifespan.startup.complete"})
                await receive()
            nursery.cancel_scope.cancel()


def log_to_stderr() -> None:
    """Log as a server does, unless a launcher has configured logging; hypercorn prints its own lines."""
    ours = logging.getLogger("wfserve")
    if ours.handlers or logging.getLogger().handlers:
        return
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    ours.addHandler(handler)
    ours.setLevel(logging.INFO)


def first_of(group: BaseExceptionGroup[WfserveError]) -> WfserveError:
    """Return the first of the errors in a group of groups."""
    first = group.exceptions[0]
    return first_of(first) if isinstance(first, BaseExceptionGroup) else first


def _alone(config: Config) -> Config:
    """Return the configuration of a server whose launcher has the sockets: it cannot have front ends."""
    if config.processes > 1:
        log.info("processes=%d has no effect under hypercorn: wfserve serve has front ends", config.processes)
    return replace(config, processes=1)


def announce(config: Config) -> None:
    """Log what of the configuration has no effect, once, and why wfserve is slower than it could be."""
    for remark in remarks(config):
        log.info("%s", remark)
    if compiled.why_not:
        log.info("wfserve runs interpreted: %s", compiled.why_not)


async def _refuse(error: WfserveError, send: Send) -> None:
    """Say in one line why this process does not serve.

    hypercorn's worker processes would print a traceback around it; nothing is open yet, so they just end.
    """
    if multiprocessing.parent_process() is not None:
        print(f"wfserve: {error.message}", file=sys.stderr, flush=True)
        os._exit(1)
    await send({"type": "lifespan.startup.failed", "message": error.message})


async def _end_with_launcher() -> None:
    """End this process when the one that launched it is gone; without effect if that is not hypercorn.

    hypercorn serves from a child process and tells it to stop by an event. A signal to the whole group
    must not cut requests off before that, and one that kills hypercorn itself must not leave the child.
    """
    launcher = multiprocessing.parent_process()
    if launcher is None:
        return
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    await trio.lowlevel.wait_readable(launcher.sentinel)
    log.error("the process that launched this server is gone")
    os.kill(os.getpid(), signal.SIGKILL)  # the workers end by themselves


app = App()
