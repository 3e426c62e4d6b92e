"""A Registry is its durable state at work: what it answers that it has done will be so after any restart.

    server nursery ── a task a version ── its nursery: a pool and a dispatcher a stage ── workers

Registration is all or nothing: a version is visible once every one of its nodes has loaded and the state has
it, and what a failed one had started is gone before its failure is answered. Every change is made durable
first, and then seen by requests, all of it at one moment, before it is answered.
"""

from __future__ import annotations

import dataclasses
import logging
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING

import trio

from wfserve.registry.answering import Answering
from wfserve.registry.claims import DEFAULT, WHOLE, Claims, PresentError, of_nodes
from wfserve.registry.fronts import NO_FRONTS
from wfserve.registry.identity import Identity, identify
from wfserve.registry.loading import Loads, failure_logged
from wfserve.registry.samples import Samples
from wfserve.registry.serving import Served
from wfserve.registry.sources import Arriving, Stored
from wfserve.registry.start import Starter, ended_unless_kept
from wfserve.state.files import StateError
from wfserve.state.naming import check_version
from wfserve.state.records import LiveSettings
from wfserve.state.store import Author

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping

    from wfserve.archive.war import WorkflowArchive
    from wfserve.config import Config
    from wfserve.registry.fronts import Fronts
    from wfserve.registry.line import OpenPool
    from wfserve.registry.placement import Gpus
    from wfserve.registry.prepare import NodePlan
    from wfserve.registry.sources import Archives
    from wfserve.registry.workflow import Workflow
    from wfserve.state.contents import Transfer
    from wfserve.state.durable import State
    from wfserve.state.records import Traffic, Version
    from wfserve.state.records import Workflow as Record
    from wfserve.transport.base import Transport

log = logging.getLogger(__name__)
ITSELF = Author("server")


class Registry(Answering):
    """The workflows of one server, opened by `open_registry`. What changes one is told who asked for it."""

    samples: Samples

    def __init__(
        self,
        config: Config,
        transport: Transport,
        open_pool: OpenPool,
        nursery: trio.Nursery,
        gpus: Gpus,
        state: State,
    ) -> None:
        super().__init__(config, transport, nursery)
        self.state = state
        self.fronts: Fronts = NO_FRONTS
        self.loads = Loads(nursery)
        self.failed_to_load: list[str] = []  # of what was to be registered at start
        self._starter = Starter(config, transport, open_pool, gpus, self.definitions, nursery)
        self._started: dict[tuple[str, str], Workflow] = {}  # by name and version
        self._left_over: set[tuple[str, str]] = set()  # restored, and not registered since
        self._claims = Claims()
        self._committing = trio.Lock()
        self.samples = Samples(self, self._claims, self._commit, nursery)
        for name in state.workflows:
            self._show(name)

    async def register(
        self,
        url: str,
        name: str | None = None,
        version: str | None = None,
        *,
        default: bool = False,
        replace: bool = False,
        again: bool = False,
        startup_timeout: float | None = None,
        response_timeout: float | None = None,
        sha256: str = "",
        archives: Callable[[Transfer], Arriving] | None = None,
        author: Author = ITSELF,
    ) -> Workflow:
        """Fetch, unpack, load and start a version of a workflow; it is served when this returns.

        Without `version` it is what the archive says, or else 1.0. The first of a name is its default, a
        further one with `default`; with `replace` it is that, and the default before it is unregistered. With
        `again`, or if that does not run, it takes the place of the same version from the same URL, with its
        settings; once, so does one without a version, for clients that register after each start. Each of its
        workers may take `startup_timeout` seconds to load, and a call of one node alone `response_timeout`,
        where the model does not say; by default what is configured. The archive must have the digest
        `sha256`, if any; `archives` says where to find it in place of `url`.

        Raises `ConflictError` if there is that version, `WorkflowError` if it fails its warm-up, and whatever
        is wrong with the archive.
        """
        if version is not None:
            check_version(version)
        if not again and any(record.version(record.default).url == url for record in self._unloaded()):
            await self.loaded()
        began = trio.current_time()
        timeouts = startup_timeout or None, response_timeout or None
        with self.transfer() as transfer, ExitStack() as claims:
            arriving = Arriving(url, sha256, self.config, self.state.contents, transfer)
            if archives is not None:
                arriving = archives(transfer)

            def identified(archive: WorkflowArchive) -> Identity:
                identity = identify(archive, name, version)
                return claims.enter_context(self._claim_new(identity, url, again=again))

            workflow = await self._start(url, arriving, timeouts, identified)
            async with ended_unless_kept(workflow):
                await self.samples.warm_up(workflow, is_new=True)
                made = arriving.version(workflow.blueprint, *timeouts)
                await self._introduce(workflow, made, author, default=default, replace=replace)
        log.info("registered %s in %.2f s", _shown(workflow), trio.current_time() - began)
        return workflow

    @contextmanager
    def transfer(self) -> Iterator[Transfer]:
        """Give what puts archives into the store; those that nothing needs when the block ends go again."""
        try:
            with self.state.contents.transfer() as transfer:
                yield transfer
        finally:
            self._nursery.start_soon(self.collect)

    def _unloaded(self) -> Iterator[Record]:
        """Give the workflows whose default does not run yet, or not any more."""
        return (each.record for each in self.names if each.record.default not in each.running)

    @contextmanager
    def _claim_new(self, identity: Identity, url: str, *, again: bool) -> Iterator[Identity]:
        """Claim a version to register; give it with the settings that it has, if it is there from `url`."""
        name, version, given, _ = identity
        taken = f"Workflow {name} is already registered."
        if given:
            taken = f"Workflow version {version} is already registered for workflow {name}"
        present = self._recorded(name, version)
        again = again or not self.runs(name, version) or (not given and (name, version) in self._left_over)
        if present is not None and not (again and present.url == url):
            raise PresentError(taken)
        with self._claims.claim(name, *self._parts(name, version), refusal=taken):
            yield identity if present is None else identity._replace(settings=present.settings)

    def _recorded(self, name: str, version: str) -> Version | None:
        record = self.state.workflows.get(name)
        versions = () if record is None else record.versions
        return next((each for each in versions if each.version == version), None)

    async def _start(
        self,
        url: str,
        archives: Archives,
        timeouts: tuple[float | None, float | None],
        identified: Callable[[WorkflowArchive], Identity],
        settings: Mapping[str, LiveSettings] = {},
    ) -> Workflow:
        startup, response = timeouts
        config = dataclasses.replace(
            self.config,
            startup_timeout=startup or self.config.startup_timeout,
            response_timeout=response or self.config.response_timeout,
        )
        workflow = await self._starter.start(url, config, archives, identified, self._ended)
        workflow.on_change = partial(self._announce, workflow.name)
        return workflow

    async def _introduce(
        self, workflow: Workflow, version: Version, author: Author, *, default: bool, replace: bool
    ) -> None:
        """Make a version that runs durable and serve it; the one that it replaces leaves."""
        name, key = workflow.name, (workflow.name, workflow.version)
        present, record = self._recorded(*key), self.state.workflows.get(name)
        left = [] if record is None or not replace or record.default == key[1] else [record.default]
        keep = self.state.add_version if present is None else self.state.exchange_version
        add = partial(keep, author, name, version, default=default, replace=replace)
        parts = [part for each in left for part in self._parts(name, each)]
        with self._claims.claim(name, *([DEFAULT] if default or replace else []), *parts):
            before = self._started.get(key)
            await self._commit(name, add, introduced=workflow)
        self._left_over.discard(key)
        self._dismiss([before, *(self._started.pop((name, each), None) for each in left)])

    async def unregister(self, name: str, version: str | None = None, *, author: Author = ITSELF) -> None:
        """Stop serving a workflow, or a version of it; return when its requests have ended, and all of it.

        Raises `WorkflowNotFoundError`, `ModelVersionNotFoundError`, `InvalidVersionError` for the default of
        several versions, or `ConflictError` if it gets traffic or is being changed; then nothing has changed.
        """
        served = self.served(name)
        if version is not None:
            served.record.version(version)
        with self._claims.claim(name, *([WHOLE] if version is None else self._parts(name, version))):
            left = [each.version for each in served.record.versions if version in (None, each.version)]
            if version is None:
                await self._commit(name, partial(self.state.remove, author, name))
            else:
                await self._commit(name, partial(self.state.remove_version, author, name, version))
            self._nursery.start_soon(self.collect)
            for workflow in self._dismiss(self._started.pop((name, each), None) for each in left):
                await workflow.gone.wait()

    def _dismiss(self, left: Iterable[Workflow | None]) -> list[Workflow]:
        """Have what is not served any more end when its requests have; return it."""
        leaving = [workflow for workflow in left if workflow is not None]
        for workflow in leaving:
            workflow.close()
        return leaving

    async def collect(self) -> None:
        """Remove the archives that nothing needs any more."""
        try:
            await trio.to_thread.run_sync(self.state.collect)
        except StateError as error:  # the next start tries again
            log.warning("%s", error.message)

    async def set_default(self, name: str, version: str, *, author: Author = ITSELF) -> None:
        """Have a version that runs answer what names none, once it has answered the workflow's sample.

        Raises as `Served.version` and `Samples.warm_up` do, or `ConflictError`.
        """
        workflow = self.lookup(name, version)
        with self._claims.claim(name, DEFAULT, version):
            await self.samples.warm_up(workflow, is_new=False)
            await self._commit(name, partial(self.state.set_default, author, name, version))

    async def roll_back(self, name: str, *, author: Author = ITSELF) -> str:
        """Return to the default before this one, and return it. Raises `ConflictError` if there is none."""
        previous = self.served(name).record.previous
        with self._claims.claim(name, DEFAULT, *([] if previous is None else [previous])):
            if previous is not None:
                self.lookup(name, previous)
            await self._commit(name, partial(self.state.roll_back, author, name))
        return self.served(name).record.default

    async def set_traffic(self, name: str, traffic: Traffic | None, *, author: Author = ITSELF) -> None:
        """Divide the requests that name no version; None: the default has them all.

        Raises as `Served.version` does, `BadRequestError` if that cannot be, or `ConflictError`.
        """
        named = [] if traffic is None else list(traffic.named())
        for version in named:
            self.lookup(name, version)
        with self._claims.claim(name, DEFAULT, *named):
            await self._commit(name, partial(self.state.set_traffic, author, name, traffic))

    async def change(
        self,
        name: str,
        version: str | None,
        settings: Mapping[str, LiveSettings],
        *,
        author: Author = ITSELF,
    ) -> Workflow:
        """Change settings of nodes of a version, by default the default; they are in force when this returns.

        Raises as `Workflow.change` and `Served.version` do, or `ConflictError`; then nothing has changed.
        """
        workflow = self.lookup(name, version)
        before = {node: workflow.blueprint.nodes[node].live() for node in settings}
        with self._claims.claim(name, *of_nodes(workflow.version, settings)):
            await workflow.change(settings)
            try:
                await self._commit(name, self._setting(author, workflow, settings))
            except BaseException:
                with trio.CancelScope(shield=True):
                    await workflow.change(before)
                raise
        return workflow

    async def scale(
        self, name: str, version: str | None, minimum: int, maximum: int, *, author: Author = ITSELF
    ) -> tuple[Workflow, NodePlan]:
        """Have from `minimum` to `maximum` workers for the node `name`; `Workflow.scaled` tells when.

        Raises as `node` does, or `ConflictError`.
        """
        workflow, plan = self.node(name, version)
        settings = {plan.node: LiveSettings(minimum, maximum)}
        with self._claims.claim(workflow.name, *of_nodes(workflow.version, settings)):
            await self._commit(workflow.name, self._setting(author, workflow, settings))
            workflow.resize(plan.node, minimum, maximum)
            await self.fronts.told()
        return workflow, plan

    def _setting(
        self, author: Author, workflow: Workflow, settings: Mapping[str, LiveSettings]
    ) -> Callable[[], object]:
        return partial(self.state.set_settings, author, workflow.name, workflow.version, settings)

    def _parts(self, name: str, version: str) -> list[str]:
        """Return what has to be claimed of a version so that nothing of it changes."""
        workflow = self._started.get((name, version))
        nodes = () if workflow is None else workflow.blueprint.nodes
        return [version, *of_nodes(version, nodes)]

    async def _commit(
        self, name: str, change: Callable[[], object], introduced: Workflow | None = None
    ) -> None:
        """Make a change durable and then have requests see it, and a version that it introduces.

        It happens, or raises and has not happened.
        """
        with trio.CancelScope(shield=True):
            async with self._committing:
                await trio.to_thread.run_sync(change)
                if introduced is not None:
                    self._started[name, introduced.version] = introduced
                self._show(name)
            await self.fronts.told()

    def _show(self, name: str) -> None:
        """Serve what the state says of a name, as far as it runs."""
        record = self.state.workflows.get(name)
        if record is None:
            self.publish(name, None)
        else:
            versions = [each.version for each in record.versions]
            running = {each: self._started[name, each] for each in versions if (name, each) in self._started}
            self.publish(name, Served.of(record, running))
        self.fronts.announce(name)

    def _announce(self, name: str) -> None:
        self.fronts.announce(name)

    def _ended(self, workflow: Workflow) -> None:
        """Serve a version no more that has ended by itself."""
        key = workflow.name, workflow.version
        if self._started.get(key) is workflow:
            del self._started[key]
            self._show(workflow.name)

    def runs(self, name: str, version: str) -> bool:
        """Whether a version has been started."""
        return (name, version) in self._started

    async def restore(self, name: str, version: Version) -> None:
        """Start a version that the state has, from the archives that were kept; what is wrong is logged."""
        timeouts = version.startup_timeout, version.response_timeout
        identity = Identity(name, version.version, version.given, version.settings)
        what = f"{name} {version.version}"
        with failure_logged(what), self._claims.claim(name, version.version):
            stored = Stored(self.state.contents, version)
            workflow = await self._start(version.url, stored, timeouts, lambda _: identity)
            workflow.loaded_at_startup = True
            self._started[name, version.version] = workflow
            self._left_over.add((name, version.version))
            self._show(name)
            log.info("restored %s", what)

    async def loaded(self) -> None:
        """Return when everything that was to be loaded at start is, or has failed."""
        await self.loads.wait()

    async def health(self) -> bool:
        """Return what `healthy` does."""
        await trio.lowlevel.checkpoint()
        return self.healthy()

    def healthy(self) -> bool:
        """Whether everything that was registered or was to be runs, and every node has its workers."""
        if self.loads.under_way or self.failed_to_load:
            return False
        complete = all(len(each.running) == len(each.record.versions) for each in self.names)
        return complete and all(workflow.healthy() for workflow in self)


def _shown(workflow: Workflow) -> str:
    return f"{workflow.name} {workflow.version}" if workflow.blueprint.given else workflow.name
