"""A registry is opened on its state directory, which is its alone until it is closed again."""

from __future__ import annotations

import gc
import logging
import os
from contextlib import asynccontextmanager, closing
from functools import partial
from typing import TYPE_CHECKING

import trio

from wfserve.errors import ConfigError
from wfserve.measure.gpus import count
from wfserve.registry.catalogue import ITSELF, Registry
from wfserve.registry.measures import keep_log
from wfserve.registry.placement import Gpus, pinned_bytes
from wfserve.registry.work import WORK, remove
from wfserve.state.durable import open_state
from wfserve.state.lock import exclusive
from wfserve.transport.joining import JoinableTransport
from wfserve.transport.shm import ShmTransport
from wfserve.workers.lending import LendingPool
from wfserve.workers.pool import ProcessPool
from wfserve.workers.process import warm_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from wfserve.config import Config
    from wfserve.registry.stageplan import StagePlan
    from wfserve.state.durable import State
    from wfserve.transport.base import Arena
    from wfserve.workers.base import Listener
    from wfserve.workers.lending import Lender

log = logging.getLogger(__name__)
GC_THRESHOLDS = 20_000, 20, 20  # a request makes some 100 objects; Python's own 700 collect every few of them
TRIM_INTERVAL = 10.0  # seconds that payload memory stays free, at least, before the system has it back
TRIM_AT_ONCE = 1 << 22  # bytes of it; they take 0.7 ms, in which nothing else runs


def _transport(config: Config, pinned_size: int, *, lends: bool) -> ShmTransport:
    """Return the segments of this process; those of front ends get the same shares of payload memory."""
    try:
        if lends:
            return JoinableTransport(config.arena_size // (config.processes + 1), pinned_bytes=pinned_size)
        return ShmTransport(config.arena_size, pinned_bytes=pinned_size)
    except OSError as error:  # its address space is limited (ulimit -v), or there is no memfd
        raise ConfigError(f"cannot reserve shared memory for payloads: {error}") from None


async def keep_trim(arena: Arena) -> None:
    """Give free payload memory back to the system now and then."""
    while True:
        await trio.sleep(TRIM_INTERVAL)
        while arena.trim(TRIM_AT_ONCE):
            await trio.lowlevel.checkpoint()


def spare_collections() -> None:
    """Keep what has been loaded out of garbage collections, and have fewer of them."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(*GC_THRESHOLDS)


async def _warm_up() -> None:
    """Load what takes seconds, and keep it out of garbage collections, which stop every request."""
    try:
        await trio.to_thread.run_sync(warm_up)
        spare_collections()
    except OSError as error:  # the first worker will try again, and whoever wants it is told
        log.warning("cannot start the fork server: %s", error)


def _open_pool(
    transport: ShmTransport, server: int, lender: Lender | None, plan: StagePlan, listener: Listener
) -> ProcessPool:
    if lender is None:
        return ProcessPool(plan.chain, plan.pool, transport, server, listener)
    return LendingPool(plan.chain, plan.pool, transport, server, listener, lender)


def _state(config: Config) -> State:
    """Open the state and log what is damaged in it. Raises `ConfigError` if it cannot be used."""
    state, problems = open_state(config.state_dir)
    for problem in problems:
        log.error("%s", problem.message)
    if config.start_empty and state.workflows:
        state.clear(ITSELF)
        state.collect()
    return state


@asynccontextmanager
async def open_registry(config: Config, lender: Lender | None = None) -> AsyncIterator[Registry]:
    """Open a registry in which nothing runs yet; leaving the block ends every workflow, the state stays.

    With a `lender`, front ends can use its workers, too.

    Raises `ConfigError` if another server uses the state directory, it cannot be used, or payload memory
    cannot be reserved.
    """
    gpus = await count(os.environ, config.number_of_gpu)
    pinned_size = pinned_bytes(config.pinned_size, gpus)
    with exclusive(config.state_dir), _transport(config, pinned_size, lends=lender is not None) as transport:
        await remove(config.state_dir / WORK)  # of a server that was killed
        with closing(await trio.to_thread.run_sync(_state, config)) as state:
            server = os.pidfd_open(os.getpid())
            try:
                async with trio.open_nursery() as nursery:
                    open_pool = partial(_open_pool, transport, server, lender)
                    registry = Registry(config, transport, open_pool, nursery, Gpus(gpus), state)
                    nursery.start_soon(keep_trim, transport.arena)
                    if config.metrics_mode == "log":
                        nursery.start_soon(keep_log, registry)
                    nursery.start_soon(_warm_up)
                    yield registry
                    nursery.cancel_scope.cancel()
            finally:
                os.close(server)
