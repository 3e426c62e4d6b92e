"""The metrics API: what every stage, pool and the arena count, read at the moment it is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from quart import Blueprint, Response, request

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from prometheus_client.core import Metric

    from wfserve.registry.catalogue import Registry
    from wfserve.scheduling.dispatch import StageStatistics
    from wfserve.workers.base import PoolStatistics

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_NODE = ["workflow", "node"]
_STAGE_GAUGES = {"queued": "Attempts that wait for a worker", "running": "Items in running batches"}
_STAGE_COUNTERS = {
    "attempts": "Attempts made",
    "refused": "Attempts refused because the queue was full",
    "timeouts": "Attempts that ran out of time",
    "abandoned": "Items whose result is no longer wanted while their batch runs",
    "reruns": "Items run again for the fault of others",
    "batches": "Batches started",
    "batched_items": "Items in those batches",
}
_POOL_GAUGES = {"idle": "Workers that wait for a batch", "wanted": "Workers that there should be"}
_POOL_COUNTERS = {"deaths": "Workers that died or were stopped", "batches_lost": "Batches lost with them"}
_ARENA = {
    "slots": "Slots of payload memory in use",
    "loaned_bytes": "Bytes of those slots",
    "limit_bytes": "Bytes that may be in use",
    "resident_bytes": "Bytes the system holds for payload memory",
}


def blueprint(registry: Registry) -> Blueprint:
    """Return `/metrics` over `registry`."""
    routes = Blueprint("metrics", __name__)
    collectors = CollectorRegistry(auto_describe=False)
    collectors.register(_Collector(registry))

    @routes.get("/metrics")
    async def metrics() -> Response:
        names = request.args.getlist("name[]")
        shown = collectors.restricted_registry(names) if names else collectors
        return Response(generate_latest(shown), content_type=CONTENT_TYPE)

    return routes


class _Collector:
    def __init__(self, registry: Registry) -> None:
        self._registry = registry

    def describe(self) -> list[Metric]:
        return list(self.collect())

    def collect(self) -> Iterator[Metric]:
        nodes = [
            ((workflow.name, node), stage.statistics(), stage.pool.statistics())
            for workflow in self._registry
            for node, stage in workflow.route.stages.items()
        ]
        stages = [(labels, stage) for labels, stage, _ in nodes]
        pools = [(labels, pool) for labels, _, pool in nodes]
        yield from _families(_STAGE_GAUGES, stages, GaugeMetricFamily)
        yield from _families(_STAGE_COUNTERS, stages, CounterMetricFamily)
        yield from _families(_POOL_GAUGES, pools, GaugeMetricFamily, "workers_")
        yield from _families(_POOL_COUNTERS, pools, CounterMetricFamily, "worker_")
        requests = GaugeMetricFamily(
            "wfserve_requests_in_flight", "Requests being walked", labels=["workflow"]
        )
        for workflow in self._registry:
            requests.add_metric([workflow.name], workflow.in_flight)
        yield requests
        arena = self._registry.arena.statistics()
        for name, text in _ARENA.items():
            yield GaugeMetricFamily(f"wfserve_arena_{name}", text, value=getattr(arena, name))


def _families(
    texts: dict[str, str],
    nodes: Iterable[tuple[tuple[str, str], StageStatistics | PoolStatistics]],
    family: type[GaugeMetricFamily] | type[CounterMetricFamily],
    prefix: str = "node_",
) -> Iterator[Metric]:
    for name, text in texts.items():
        metric = family(f"wfserve_{prefix}{name}", text, labels=_NODE)
        for labels, statistics in nodes:
            metric.add_metric(list(labels), getattr(statistics, name))
        yield metric
