"""A Blueprint says all about a workflow before anything of it runs: which workers, with which settings.

`prepare` fetches the archives and unpacks all that are not shared into one directory, which is all of it that
has to be removed if the workflow is never started, or once it has ended.
"""

from __future__ import annotations

import logging
import os
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import trio

from wfserve.archive.extract import ExtractLimits
from wfserve.archive.mar import open_model
from wfserve.archive.war import open_workflow
from wfserve.child.spec import WorkerSpec
from wfserve.dag.graph import Graph
from wfserve.dag.plan import NodeFacts, plan
from wfserve.errors import WfserveError, WorkflowError
from wfserve.registry.identity import DEFAULT_VERSION, identify
from wfserve.registry.placement import Gpus, Seats, placement_of
from wfserve.registry.requirements import Packages, install
from wfserve.registry.stageplan import StagePlan, fused
from wfserve.scheduling.settings import StageSettings
from wfserve.state.records import LiveSettings

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping, Sequence
    from pathlib import Path

    from wfserve.archive.mar import ModelArchive
    from wfserve.archive.spec import ModelSpec, NodeSettings
    from wfserve.archive.war import WorkflowArchive
    from wfserve.config import Config
    from wfserve.dag.plan import Plan
    from wfserve.registry.identity import Identity
    from wfserve.registry.sources import Archives

    Opening = Callable[[Path], Awaitable["Model"]]  # opens an archive in a directory
    Sharing = Callable[[Path, Opening], Awaitable["Model"]]  # gives the model of a file, opened by now

log = logging.getLogger(__name__)
ARCHIVES_AT_A_TIME = 4  # as many nodes as TorchServe registers at a time


@dataclass(frozen=True, slots=True)
class NodePlan:
    """One node: what a worker is told of it, how a stage of its own schedules, and what was asked for."""

    node: str
    version: str
    url: str | None  # as the specification has it; None for a function node
    worker: WorkerSpec
    stage: StageSettings
    settings: NodeSettings
    seats: Seats  # where its workers go
    response_timeout: float  # seconds that a call of this node alone may take

    @property
    def copies_to_gpu(self) -> bool:
        """Whether what it gets goes to a GPU from where it lies; a function does what it likes with it."""
        straight = self.worker.data_format == "native" and not self.worker.copy_inputs
        return straight and not self.worker.is_function and self.seats.placement.on_gpu

    def changed(self, live: LiveSettings) -> NodePlan:
        """Return the plan with settings changed. Raises `BadRequestError` if they contradict the others."""
        settings = live.applied(
            replace(self.settings, min_workers=self.stage.min_workers, max_workers=self.stage.max_workers)
        )
        worker = replace(self.worker, batch_size=settings.batch_size)
        return replace(
            self, worker=worker, stage=replace(self.stage, **_scheduling(settings)), settings=settings
        )

    def live(self) -> LiveSettings:
        """Return the settings that can be changed, as they are."""
        return LiveSettings(**{name: getattr(self.settings, name) for name in LiveSettings.__slots__})

    def facts(self) -> NodeFacts:
        """Return what decides whether the node shares a stage with others."""
        return NodeFacts(
            is_function=self.worker.is_function,
            min_workers=self.stage.min_workers,
            max_workers=self.stage.max_workers,
            fuse=self.settings.fuse,
            own_packages=self.worker.packages is not None or self.worker.python is not None,
            shared=self.settings.share,
        )


@dataclass(frozen=True, slots=True)
class Blueprint:
    """A version of a workflow that could be started; `directory` holds its unpacked archives."""

    name: str
    version: str
    given: bool  # somebody named this version
    url: str
    archive: WorkflowArchive
    graph: Graph
    nodes: Mapping[str, NodePlan]
    directory: Path
    pools: Mapping[tuple[str, ...], int] = field(default_factory=dict)  # of another process, by chain

    def plan(self) -> Plan:
        """Divide the nodes into stages."""
        return plan(self.graph, {node: each.facts() for node, each in self.nodes.items()})

    @property
    def chains(self) -> tuple[tuple[str, ...], ...]:
        """Return the nodes of each stage: as planned, or as they are where the pools are kept."""
        return tuple(self.pools) or self.plan().stages

    def resized(self, node: str, minimum: int, maximum: int) -> Blueprint:
        """Return the blueprint with other numbers of workers for one node."""
        return self.changed({node: LiveSettings(minimum, maximum)})

    def changed(self, settings: Mapping[str, LiveSettings]) -> Blueprint:
        """Return the blueprint with settings of some nodes changed; raises as `NodePlan.changed` does."""
        changed = {node: self.nodes[node].changed(each) for node, each in settings.items()}
        return replace(self, nodes={**self.nodes, **changed})

    def stage(self, chain: Sequence[str]) -> StagePlan:
        """Return the plan of the stage that runs `chain`."""
        nodes = [self.nodes[node] for node in chain]
        return StagePlan(
            tuple(chain),
            tuple(each.worker for each in nodes),
            fused([each.stage for each in nodes]),
            tuple(each.seats for each in nodes),
            pins_results=self._pins_results(chain),
            shared=any(each.settings.share for each in nodes),
            number=self.pools.get(tuple(chain), 0),
        )

    def stages(self) -> dict[tuple[str, ...], StagePlan]:
        """Return the plans of all stages, by their nodes."""
        return {chain: self.stage(chain) for chain in self.chains}

    @property
    def pins_bodies(self) -> bool:
        """Whether bodies of requests belong into pinned memory, if there is any."""
        return self.nodes[self.graph.start].copies_to_gpu

    def batch_of_bodies(self) -> int:
        """Return how many bodies the first model on the way gets together, as they came; 1 if none."""
        node: str | None = self.graph.start
        while node is not None:
            plan, children = self.nodes[node], self.graph.children[node]
            if plan.worker.data_format != "native":
                return 1
            if not plan.worker.is_function:
                return plan.stage.batch_size
            node = children[0] if len(children) == 1 else None
        return 1

    def _pins_results(self, chain: Sequence[str]) -> bool:
        """Say whether a GPU copies from what a stage writes: for its own steps, or for its only reader."""
        outside = self.graph.children[chain[-1]]
        readers = [*chain[1:], *(outside if len(outside) == 1 else ())]
        return any(self.nodes[reader].copies_to_gpu for reader in readers)


async def prepare(
    url: str,
    archives: Archives,
    config: Config,
    directory: Path,
    gpus: Gpus | None = None,
    *,
    sharing: Sharing,
    identified: Callable[[WorkflowArchive], Identity] = identify,
) -> Blueprint:
    """Unpack a workflow and its models, which `archives` has, below `directory`; it is listed as `url`.

    Models that it may share with other workflows are unpacked by `sharing`, wherever that does.
    `identified` says what it is registered as, and may refuse it before its models are looked for. Its
    workers take turns on `gpus` with those of the server's other workflows; without any, on none.

    Raises the `WfserveError` that the archive, its specification or the download deserve; faults of nodes
    are collected into one `WorkflowError`.
    """
    limits = ExtractLimits(max_bytes=config.max_archive_size)
    path = await archives.workflow()
    archive = await trio.to_thread.run_sync(open_workflow, path, directory / "workflow", limits)
    name, version, given, settings = identified(archive)
    graph = Graph.from_edges(archive.spec.dag)
    models = await _Models(archives, config, directory, sharing).open_all(name, archive, graph)
    nodes = _plan(name, archive, graph, models, config, gpus or Gpus(), settings)
    return Blueprint(name, version, given, url, archive, graph, nodes, directory)


class Model(NamedTuple):
    """A model as it was unpacked, and the packages that were installed for it."""

    archive: ModelArchive
    packages: Packages


class _Models:
    """Fetches and unpacks the models that a graph names, and installs what they need."""

    def __init__(self, archives: Archives, config: Config, directory: Path, sharing: Sharing) -> None:
        self._archives = archives
        self._may_install = config.install_py_dep_per_model
        self._directory = directory
        self._limits = ExtractLimits(max_bytes=config.max_archive_size)
        self._sharing = sharing
        self._places = trio.CapacityLimiter(ARCHIVES_AT_A_TIME)
        self._found: dict[str, Model] = {}
        self._failures: list[str] = []

    async def open_all(self, name: str, archive: WorkflowArchive, graph: Graph) -> dict[str, Model]:
        async with trio.open_nursery() as nursery:
            for node in graph.nodes:
                if not archive.spec.is_function(node):
                    nursery.start_soon(self._open, f"{name}__{node}", archive.spec.models[node])
        raise_failures(name, self._failures)
        return self._found

    async def _open(self, registered: str, spec: ModelSpec) -> None:
        async with self._places:
            try:
                path = await self._archives.model(spec)
                opening = partial(self._unpack, path, registered, spec.name)
                share = spec.settings.share
                found = await (self._sharing(path, opening) if share else opening(self._directory))
                self._found[spec.name] = found
            except WfserveError as error:
                self._failures.append(
                    f"Workflow Node {registered} failed to register. Details: {error.message}"
                )

    async def _unpack(self, path: Path, registered: str, node: str, directory: Path) -> Model:
        into, own = directory / "models" / node, directory / "packages" / node
        model = await trio.to_thread.run_sync(open_model, path, into, self._limits)
        model = replace(model, name=registered)
        return Model(model, await install(model, own, allowed=self._may_install))


def raise_failures(name: str, failures: list[str]) -> None:
    """Raise TorchServe's list of node failures, if there are any."""
    if failures:
        listed = ", ".join(failures)
        raise WorkflowError(f"Workflow {name} has failed to register. Failures: [{listed}]")


def _plan(
    name: str,
    archive: WorkflowArchive,
    graph: Graph,
    models: Mapping[str, Model],
    config: Config,
    gpus: Gpus,
    changed: Mapping[str, LiveSettings],
) -> dict[str, NodePlan]:
    settings = {node: _settings_of(archive, node, models.get(node)) for node in graph.nodes}
    settings |= {node: each.applied(settings[node]) for node, each in changed.items() if node in settings}
    workers = sum(each.max_workers for each in settings.values())
    seats = _seats(name, graph, models, gpus)
    plans = {}
    for node in graph.nodes:
        worker = WorkerSpec(
            name=f"{name}__{node}",
            parents=graph.parents[node],
            leaf=node in graph.leaves,
            only_leaf=graph.leaves == (node,),
            batch_size=settings[node].batch_size,
            data_format=settings[node].data_format,
            copy_inputs=settings[node].copy_inputs,
            input_shape=settings[node].input_shape,
            input_dtype=settings[node].input_dtype,
            threads=config.worker_threads or _threads(settings[node], workers),
            spin_us=config.worker_spin,
            decode_input_request=config.decode_input_request,
            limit_max_image_pixels=config.limit_max_image_pixels,
            service_envelope=config.service_envelope,
            metrics_config=str(config.metrics_config.absolute()) if config.metrics_config else None,
            hidden_variables=config.blacklist_env_vars,
            **_handler_of(archive, node, models.get(node), config),
        )
        stage = _stage(worker, settings[node], config)
        plans[node] = NodePlan(
            node=node,
            version=models[node].archive.version if node in models else DEFAULT_VERSION,
            url=archive.spec.models[node].url if node in models else None,
            worker=worker,
            stage=stage,
            settings=settings[node],
            seats=seats[node],
            response_timeout=_number(worker, "responseTimeout") or config.response_timeout,
        )
    return plans


def _threads(settings: NodeSettings, workers: int) -> int:
    """Return the threads of each worker of a node, where the workflow has `workers` in all.

    Nodes that share theirs must not differ by the workflows that they stand in.
    """
    return max(1, (os.cpu_count() or 1) // max(1, settings.max_workers if settings.share else workers))


def _seats(name: str, graph: Graph, models: Mapping[str, Model], gpus: Gpus) -> dict[str, Seats]:
    """Return where the workers of each node go. Raises `WorkflowError` if there are too few GPUs."""
    seats, failures = {}, []
    for node in graph.nodes:
        try:
            placement, remarks = placement_of(
                models[node].archive.config if node in models else {}, gpus.count
            )
        except ValueError as error:
            failures.append(f"Workflow Node {name}__{node} failed to register. Details: {error}")
            continue
        for remark in remarks:
            log.warning("%s__%s: %s", name, node, remark)
        seats[node] = Seats(placement, gpus)
    raise_failures(name, failures)
    return seats


def _number(worker: WorkerSpec, key: str) -> int | None:
    """Return what model-config.yaml has under `key` if that is a positive whole number."""
    value = worker.model_config.get(key)
    return value if type(value) is int and value > 0 else None  # true is no number


def _handler_of(archive: WorkflowArchive, node: str, model: Model | None, config: Config) -> dict[str, Any]:
    if model is None:
        return {
            "handler": f"{archive.handler}:{node}",
            "model_dir": str(archive.directory),
            "is_function": True,
        }
    return {
        "handler": model.archive.handler or config.default_service_handler,
        "model_dir": str(model.archive.directory),
        "manifest": model.archive.manifest or None,
        "model_config": model.archive.config,
        "python": model.packages.python,
        "packages": model.packages.directory,
    }


def _settings_of(archive: WorkflowArchive, node: str, model: Model | None) -> NodeSettings:
    """Return a node's settings; the worker counts of model-config.yaml win if they make sense."""
    settings = archive.spec.settings_of(node)
    config = model.archive.config if model is not None else {}
    low, high = config.get("minWorkers"), config.get("maxWorkers")
    if type(low) is type(high) is int and 0 < low <= high:  # true is no count
        return replace(settings, min_workers=low, max_workers=high)
    return settings


def _stage(worker: WorkerSpec, settings: NodeSettings, config: Config) -> StageSettings:
    return StageSettings(
        name=worker.name,
        divisible=worker.may_be_many and not worker.is_function,
        one_by_one=worker.is_function,
        **_scheduling(settings),
        startup_timeout=_number(worker, "startupTimeout") or config.startup_timeout,
        queue_size=_number(worker, "jobQueueSize") or config.job_queue_size,
        idle_timeout=config.worker_idle_timeout,
        isolate=settings.isolate,
    )


def _scheduling(settings: NodeSettings) -> dict[str, Any]:
    """Return what a node's settings say of its stage."""
    return {
        "batch_size": settings.batch_size,
        "batch_delay": settings.max_batch_delay_ms / 1000,
        "timeout": settings.timeout_ms / 1000,
        "retry_attempts": settings.retry_attempts,
        "min_workers": settings.min_workers,
        "max_workers": settings.max_workers,
    }
