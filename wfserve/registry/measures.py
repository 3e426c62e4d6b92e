"""The metrics that TorchServe has, by its names, labels and units, of what a registry's parts count.

`metrics_mode=log` writes them to the log every `LOG_INTERVAL` seconds and keeps them out of `/metrics`.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, NamedTuple

import trio

from wfserve.measure import host, recorded
from wfserve.measure.family import Family, Labels
from wfserve.measure.gpus import Gpus
from wfserve.measure.logged import MetricsLog

if TYPE_CHECKING:
    from wfserve.measure.counts import NodeCounts
    from wfserve.measure.definitions import Definition
    from wfserve.measure.gpus import Gpu
    from wfserve.registry.answering import Answering
    from wfserve.registry.catalogue import Registry
    from wfserve.registry.workflow import Workflow
    from wfserve.scheduling.settings import StageSettings, StageStatistics
    from wfserve.workers.base import PoolStatistics

log = logging.getLogger(__name__)
LOG_INTERVAL = 60.0  # seconds; TorchServe's metric_time_interval
NODES = 50  # that are read before requests go on
Values = list[tuple[tuple[str, ...], float]]  # of the labels but the last, the host's name; of the metric
_HOST = ("Host",)


class Node(NamedTuple):
    """All that is counted of one node."""

    workflow: str
    label: str | None  # the workflow's version, where versions were given
    is_default: bool
    node: str
    version: str
    model: str  # its name as a model
    settings: StageSettings  # of the stage that it shares, perhaps
    stage: StageStatistics
    pool: PoolStatistics
    measured: NodeCounts


async def readings(registry: Answering) -> list[Node]:
    """Read all nodes, while requests go on."""
    found: list[Node] = []
    for served in registry.names:
        for workflow in served.running.values():
            label, is_default = served.label(workflow.version), workflow.version == served.record.default
            for node in workflow.route.stages:
                found.append(_reading(workflow, node, label, is_default=is_default))
                if len(found) % NODES == 0:
                    await trio.lowlevel.checkpoint()
    return found


def _reading(workflow: Workflow, node: str, label: str | None, *, is_default: bool) -> Node:
    stage, step = workflow.route.stages[node], workflow.route.step(node)
    version = label or workflow.blueprint.nodes[node].version
    named = workflow.name, label, is_default, node, version, stage.steps[step].name
    statistics = stage.statistics(step), stage.pool.statistics()
    return Node(*named, stage.settings, *statistics, stage.measured(step))


class TorchServeMetrics:
    """The families of one registry."""

    def __init__(self, registry: Answering, *, machine: bool = True) -> None:
        """Make them; without `machine`, another process tells of that."""
        self._registry = registry
        self._machine = machine and not registry.config.disable_system_metrics
        self._cpu = host.Cpu()
        self._gpus = Gpus()

    async def families(self, nodes: list[Node]) -> list[Family]:
        """Return all that are defined, of `nodes`; one that nothing was counted for has no values."""
        values = _of_nodes(nodes) | _of_last_batches([node.measured for node in nodes])
        for outcome, count in self._registry.responses.by_class.items():
            values[f"Requests{outcome.upper()}"] = [(_HOST, count)]
        if self._machine:
            values |= self._of_machine() | _of_gpus(await self._gpus.read())
        defined = self._registry.definitions.server
        families = [_family(name, each, values.get(name, [])) for name, each in defined.items()]
        return families + recorded.families([node.measured.recorded for node in nodes])

    def _of_machine(self) -> dict[str, Values]:
        try:
            cpu, memory, disk = self._cpu.percent(), host.memory(), host.disk()
        except (OSError, LookupError, ValueError) as error:  # a container may hide them
            log.warning("the machine's use cannot be read, and is not shown any more: %r", error)
            self._machine = False
            return {}
        found = {
            "CPUUtilization": cpu,
            "MemoryUsed": memory.used / host.MEGABYTE,
            "MemoryAvailable": memory.available / host.MEGABYTE,
            "MemoryUtilization": memory.percent,
            "DiskUsage": disk.used / host.GIGABYTE,
            "DiskAvailable": disk.available / host.GIGABYTE,
            "DiskUtilization": disk.percent,
        }
        return {name: [(_HOST, value)] for name, value in found.items()}


def _family(name: str, definition: Definition, values: Values) -> Family:
    samples = (
        (Labels(*zip(definition.labels, (*labels, host.NAME), strict=True)), value)
        for labels, value in values
    )
    return Family(name, definition.kind, definition.help, samples, definition.unit)


def _of_nodes(nodes: list[Node]) -> dict[str, Values]:
    """Return what each node has from its first request, or its first worker, on."""
    used = [node for node in nodes if node.stage.attempts or node.stage.refused]
    return {
        "ts_inference_requests_total": [
            ((n.model, n.label or "default"), n.stage.attempts + n.stage.refused - n.stage.retries)
            for n in used
        ],
        "ts_inference_latency_microseconds": [
            ((n.model, n.label or "default"), n.measured.latency * 1e6) for n in used
        ],
        "ts_queue_latency_microseconds": [
            ((n.model, n.label or "default"), n.measured.queue_time.sum * 1e6) for n in used
        ],
        "PredictionTime": [  # which tells versions not apart
            ((n.model, "Model"), n.measured.busy * 1e3)
            for n in used
            if n.is_default and n.measured.run_time.count
        ],
        "WorkerLoadTime": [
            ((f"W-{replica.id}-{n.model}_{n.version}", "Host"), seconds * 1e3)
            for n in nodes
            for replica in n.pool.replicas
            if (seconds := n.measured.load_time(replica.id, replica.pid)) is not None
        ],
    }


def _of_last_batches(nodes: list[NodeCounts]) -> dict[str, Values]:
    """Return what TorchServe tells of the last job of all, whichever node it was of."""
    values: dict[str, Values] = {}
    started = max(nodes, key=lambda each: each.started_at, default=None)
    if started is not None and started.started_at:
        values["QueueTime"] = [(_HOST, started.waited * 1e3)]
    ended = max(nodes, key=lambda each: each.ended_at, default=None)
    if ended is not None and ended.ended_at:
        values["WorkerThreadTime"] = [(_HOST, ended.overhead * 1e3)]
    return values


def _of_gpus(gpus: list[Gpu]) -> dict[str, Values]:
    return {
        "GPUMemoryUtilization": [
            (("Host", gpu.number), 100 * gpu.used / max(1.0, gpu.total)) for gpu in gpus
        ],
        "GPUMemoryUsed": [(("Host", gpu.number), gpu.used) for gpu in gpus],
        "GPUUtilization": [(("Host", gpu.number), gpu.busy) for gpu in gpus],
    }


async def keep_log(registry: Registry) -> None:
    """Write what has changed to the log, again and again."""
    metrics, lines = TorchServeMetrics(registry), MetricsLog()
    while True:
        await trio.sleep(LOG_INTERVAL)
        lines.write(await metrics.families(await readings(registry)))
