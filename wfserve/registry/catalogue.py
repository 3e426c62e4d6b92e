"""A Registry knows every workflow by name; nothing it started outlives its `open` block.

    server nursery ── a task a workflow ── its nursery: a pool and a dispatcher a node ── workers

Registration is all or nothing: a workflow is visible once every one of its nodes has loaded, and what a
failed one had started is gone before its failure is answered.
"""

from __future__ import annotations

import dataclasses
import gc
import logging
import os
import shutil
import uuid
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING

import trio

from wfserve.archive.fetch import Fetcher, FetchPolicy
from wfserve.errors import (
    ConfigError,
    ConflictError,
    ModelNotFoundError,
    ModelVersionNotFoundError,
    WfserveError,
    WorkflowNotFoundError,
)
from wfserve.measure import definitions
from wfserve.measure.counts import ResponseCounts
from wfserve.measure.gpus import count
from wfserve.registry.measures import keep_log
from wfserve.registry.placement import Gpus, pinned_bytes
from wfserve.registry.prepare import prepare
from wfserve.registry.workflow import Workflow
from wfserve.state.lock import exclusive
from wfserve.transport.shm import ShmTransport
from wfserve.workers.process import warm_up

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator
    from pathlib import Path

    from wfserve.config import Config
    from wfserve.registry.prepare import NodePlan
    from wfserve.transport.base import Arena, Transport

log = logging.getLogger(__name__)
MAX_PAGE = 100
GC_THRESHOLDS = 20_000, 20, 20  # a request makes some 100 objects; Python's own 700 collect every few of them
TRIM_INTERVAL = 10.0  # seconds between returns of free memory to the system


class Registry:
    """The workflows of one server. Made by `open_registry`."""

    def __init__(
        self, config: Config, transport: Transport, server: int, nursery: trio.Nursery, gpus: Gpus
    ) -> None:
        self.config = config
        self.responses = ResponseCounts()
        self.definitions = definitions.load(config.metrics_config)
        self._transport = transport
        self._server = server
        self._nursery = nursery
        self._gpus = gpus
        self._work = config.state_dir / "work"
        self._workflows: dict[str, Workflow] = {}
        self._nodes: dict[str, tuple[Workflow, str]] = {}  # by their registered names
        self._reserved: set[str] = set()
        self._loading = 0
        self._all_loaded = trio.Event()
        self.failed_to_load: list[str] = []
        self._fetcher = Fetcher(
            FetchPolicy(
                allowed_urls=config.allowed_urls,
                max_download_bytes=config.max_archive_size,
                timeout=config.response_timeout,
                stores=tuple(s for s in (config.workflow_store, config.model_store) if s is not None),
            )
        )

    @property
    def arena(self) -> Arena:
        """Where request bodies are written."""
        return self._transport.arena

    @property
    def pinned(self) -> Arena | None:
        """Memory that GPUs copy from; None without GPUs."""
        return self._transport.pinned

    def __iter__(self) -> Iterator[Workflow]:
        return iter(self._workflows.values())

    def lookup(self, name: str) -> Workflow:
        """Return a running workflow. Raises `WorkflowNotFoundError`."""
        workflow = self._workflows.get(name)
        if workflow is None:
            raise WorkflowNotFoundError(f"Workflow not found: {name}")
        return workflow

    def node(self, name: str, version: str | None = None) -> tuple[Workflow, NodePlan]:
        """Return the node that is registered as `name`, `W__N`, and its workflow.

        Raises `ModelNotFoundError`, or `ModelVersionNotFoundError` if it has another version than `version`.
        """
        if name not in self._nodes:
            raise ModelNotFoundError(f"Model not found: {name}")
        workflow, node = self._nodes[name]
        plan = workflow.blueprint.nodes[node]  # as it is by now: it may have been resized
        if version not in (None, plan.version):
            raise ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")
        return workflow, plan

    def page(self, limit: int, offset: int) -> tuple[list[Workflow], int | None]:
        """Return a page of the workflows by name, and the next offset, as `paged` has it."""
        names, following = paged(sorted(self._workflows), limit, offset)
        return [self._workflows[name] for name in names], following

    async def register(
        self,
        url: str,
        name: str | None = None,
        *,
        startup_timeout: float | None = None,
        response_timeout: float | None = None,
        sha256: str = "",
    ) -> Workflow:
        """Fetch, unpack, load and start a workflow; it is served when this returns.

        Each of its workers may take `startup_timeout` seconds to load, and a call of one node alone
        `response_timeout`, where the model does not say; by default what is configured. The archive must have
        the digest `sha256` if that is not empty.

        Raises `ConflictError` if the name is taken, and whatever is wrong with the archive.
        """
        if name is not None:
            self._refuse_taken(name)
        config = dataclasses.replace(
            self.config,
            startup_timeout=startup_timeout or self.config.startup_timeout,
            response_timeout=response_timeout or self.config.response_timeout,
        )
        directory = self._work / uuid.uuid4().hex
        started = trio.current_time()
        try:
            directory.mkdir(parents=True)
            fetcher = self._fetcher.within(directory)
            blueprint = await prepare(url, name, fetcher, config, directory, sha256, gpus=self._gpus)
            with self._reservation(blueprint.name):
                workflow = Workflow(blueprint, self._transport, self._server, self.definitions)
                await self._nursery.start(self._keep, workflow, directory)
        except BaseException:
            with trio.CancelScope(shield=True):
                await _remove(directory)
            raise
        log.info("registered %s in %.2f s", workflow.name, trio.current_time() - started)
        return workflow

    def _refuse_taken(self, name: str) -> None:
        if name in self._workflows or name in self._reserved:
            raise ConflictError(f"Workflow {name} is already registered.")

    @contextmanager
    def _reservation(self, name: str) -> Iterator[None]:
        self._refuse_taken(name)
        self._reserved.add(name)
        try:
            yield
        finally:
            self._reserved.discard(name)

    async def _keep(self, workflow: Workflow, directory: Path, *, task_status: trio.TaskStatus[None]) -> None:
        """Own one workflow: run it, and leave no trace of it."""
        served = False

        def serve() -> None:
            nonlocal served
            served = True
            self._workflows[workflow.name] = workflow
            self._index_nodes()
            task_status.started()

        try:
            await workflow.run(self.config.unregister_timeout, serve)
        except Exception:
            if not served:
                raise  # whoever registers it is told
            log.exception("workflow %s failed and is not served any more", workflow.name)
        finally:
            self._forget(workflow)
            with trio.CancelScope(shield=True):
                await _remove(directory)
            workflow.gone.set()

    def _forget(self, workflow: Workflow) -> None:
        if self._workflows.get(workflow.name) is workflow:
            del self._workflows[workflow.name]
            self._index_nodes()

    def _index_nodes(self) -> None:
        """Find nodes by name again; of equal names, `a` with `b__c` and `a__b` with `c`, the first counts."""
        self._nodes = {
            plan.worker.name: (workflow, plan.node)
            for workflow in reversed(self._workflows.values())
            for plan in workflow.blueprint.nodes.values()
        }

    async def unregister(self, name: str) -> None:
        """Stop serving a workflow at once, let its requests finish, and return when nothing of it is left."""
        workflow = self.lookup(name)
        self._forget(workflow)
        workflow.close()
        with self._reservation(name):
            await workflow.gone.wait()

    def load(self, urls: tuple[str, ...]) -> None:
        """Register workflows in the background; `name=archive` gives one another name."""
        if urls and not self._loading:
            self._all_loaded = trio.Event()
        for url in urls:
            self._loading += 1
            self._nursery.start_soon(self._load, url)

    async def _load(self, url: str) -> None:
        name, given, archive = url.partition("=")
        named = given and not set(name) & set("/:?")  # else the = belongs to a URL
        try:
            workflow = await (self.register(archive, name) if named else self.register(url))
            workflow.loaded_at_startup = True
        except Exception as error:  # one workflow that cannot be loaded keeps no other from being served
            self.failed_to_load.append(url)
            if isinstance(error, WfserveError):
                log.error("cannot load workflow %s: %s", url, error.message)
            else:
                log.exception("cannot load workflow %s", url)
        finally:
            self._loading -= 1
            if not self._loading:
                self._all_loaded.set()

    async def loaded(self) -> None:
        """Return when everything that `load` was told to register is registered, or has failed."""
        while self._loading:
            await self._all_loaded.wait()

    def healthy(self) -> bool:
        """Whether everything that was to be loaded at start is, and every node has its workers."""
        if self._loading or self.failed_to_load:
            return False
        return all(workflow.healthy() for workflow in self._workflows.values())

    async def keep_trim(self) -> None:
        """Give free payload memory back to the system now and then."""
        while True:
            await trio.sleep(TRIM_INTERVAL)
            self.arena.trim()


def paged(names: list[str], limit: int, offset: int) -> tuple[list[str], int | None]:
    """Return up to `limit` of `names` from `offset` on, and the next offset if there may be more.

    A limit outside 0 … 100 means 100 and a negative offset 0, as in TorchServe; so does a next offset that
    equals the count.
    """
    limit = limit if 0 <= limit <= MAX_PAGE else MAX_PAGE
    offset = max(0, offset)
    end = offset + limit
    return names[offset:end], end if end <= len(names) else None


async def _remove(directory: Path) -> None:
    await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))


def _transport(arena_size: int, pinned_size: int) -> ShmTransport:
    try:
        return ShmTransport(arena_size, pinned_bytes=pinned_size)
    except OSError as error:  # its address space is limited (ulimit -v), or there is no memfd
        raise ConfigError(f"cannot reserve shared memory for payloads: {error}") from None


async def _warm_up() -> None:
    """Load what takes seconds, and keep it out of garbage collections, which stop every request."""
    try:
        await trio.to_thread.run_sync(warm_up)
        gc.collect()
        gc.freeze()
        gc.set_threshold(*GC_THRESHOLDS)
    except OSError as error:  # the first worker will try again, and whoever wants it is told
        log.warning("cannot start the fork server: %s", error)


@asynccontextmanager
async def open_registry(config: Config) -> AsyncIterator[Registry]:
    """Open an empty registry; leaving the block ends every workflow and removes what was unpacked.

    Raises `ConfigError` if another server uses the state directory, or payload memory cannot be reserved.
    """
    gpus = await count(os.environ, config.number_of_gpu)
    pinned_size = pinned_bytes(config.pinned_size, gpus)
    with exclusive(config.state_dir), _transport(config.arena_size, pinned_size) as transport:
        await _remove(config.state_dir / "work")  # of a server that was killed
        server = os.pidfd_open(os.getpid())
        try:
            async with trio.open_nursery() as nursery:
                registry = Registry(config, transport, server, nursery, Gpus(gpus))
                nursery.start_soon(registry.keep_trim)
                if config.metrics_mode == "log":
                    nursery.start_soon(keep_log, registry)
                nursery.start_soon(_warm_up)
                yield registry
                nursery.cancel_scope.cancel()
        finally:
            os.close(server)
