"""The metrics API: what every workflow, stage, pool and the arena count, read at the moment it is asked for.

A scrape of many workflows lets requests go on between `LINES` lines of its answer.
"""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

import trio
from quart import Blueprint, Response, request

from wfserve.http.inference import health
from wfserve.measure.family import (
    CONTENT_TYPE,
    NO_LABELS,
    Family,
    Kind,
    Labels,
    lines,
    selected,
    together,
)
from wfserve.registry.measures import TorchServeMetrics, readings

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    from wfserve.measure.histogram import Histogram
    from wfserve.registry.answering import Answering
    from wfserve.registry.catalogue import Registry
    from wfserve.registry.measures import Node
    from wfserve.registry.serving import Served
    from wfserve.transport.base import Arena

    Samples = list[tuple[Labels, float | Histogram]]

LINES = 200
OURS = "wfserve_"  # begins the names of our metrics
Part = tuple[Kind, str, str, dict[str, str]]  # type, the part of a node that knows, prefix, what there is
_PARTS: tuple[Part, ...] = (
    (
        "gauge",
        "settings",
        "node",
        {"queue_size": "Attempts that may wait for a worker"},
    ),
    (
        "gauge",
        "stage",
        "node",
        {
            "queued": "Attempts that wait for a worker",
            "queue_delay_seconds": "How long the oldest of those has waited",
            "running": "Items in running batches",
        },
    ),
    (
        "counter",
        "stage",
        "node",
        {
            "attempts": "Attempts made",
            "retries": "Attempts that followed a failed one",
            "refused": "Attempts refused because the queue was full",
            "timeouts": "Attempts that ran out of time",
            "abandoned": "Items whose result is no longer wanted while their batch runs",
            "reruns": "Items run again for the fault of others",
            "batches": "Batches started",
            "batched_items": "Items in those batches",
        },
    ),
)
_POOL_PARTS: tuple[Part, ...] = (
    (
        "gauge",
        "settings",
        "node",
        {"min_workers": "Workers that there are at least", "max_workers": "Workers that there may be"},
    ),
    (
        "gauge",
        "pool",
        "workers",
        {
            "idle": "Workers that wait for a batch",
            "running": "Workers that run a batch",
            "wanted": "Workers that there should be",
        },
    ),
    (
        "counter",
        "pool",
        "worker",
        {"deaths": "Workers that died or were stopped", "batches_lost": "Batches lost with them"},
    ),
)
_QUEUE_SIZE = "wfserve_node_queue_size"  # is that of the queues of front ends, if there are any
_GREATEST = frozenset({"wfserve_node_queue_delay_seconds"})  # of several processes
_MIRRORED = "Copies of requests that a shadow version had, by how its answers compare"
_COPIES = "Copies that workers made of items' inputs before the handler had them"
_HISTOGRAMS = {
    "queue_time": ("queue_seconds", "How long items waited for their first batch"),
    "run_time": ("run_seconds", "How long batches took, from leaving for a worker to its answer"),
    "batch_size": ("batch_size", "Items in a batch"),
}
_ARENA = {
    "slots": "Slots of payload memory in use",
    "loaned_bytes": "Bytes of those slots",
    "limit_bytes": "Bytes that may be in use",
    "resident_bytes": "Bytes the system holds for payload memory",
}


def blueprint(registry: Registry) -> Blueprint:
    """Return `/metrics` over `registry`, and `/ping` for probes that have no token."""
    routes = Blueprint("metrics", __name__)
    torchserve = None if registry.config.metrics_mode == "log" else TorchServeMetrics(registry)

    @routes.get("/ping")
    async def ping() -> Response:
        return await health(registry)

    @routes.get("/metrics")
    async def metrics() -> Response:
        nodes = await readings(registry)
        theirs = [] if torchserve is None else await torchserve.families(nodes)
        ours = chain([_health(registry)], _of_this_process(registry, nodes), _of_pools(nodes))
        families: Iterable[Family] = chain(ours, theirs)
        if fronts := await registry.fronts.families():
            families = (family for family in families if family.name != _QUEUE_SIZE)
            families = together([families, *fronts], OURS, _GREATEST)
        text = await _written(families, frozenset(request.args.getlist("name[]")))
        return Response(text, content_type=CONTENT_TYPE)

    return routes


async def counted(registry: Answering) -> list[Family]:
    """Return what a front end has counted, without what the supervisor counts itself."""
    nodes = await readings(registry)
    torchserve = TorchServeMetrics(registry, machine=False)
    ours = chain(_of_this_process(registry, nodes), _of_loans(nodes))
    return together([ours, await torchserve.families(nodes)], OURS)


def _of_this_process(registry: Answering, nodes: list[Node]) -> Iterable[Family]:
    ours = chain(_of_workflows(registry.names), _of_nodes(nodes), _of_arena("arena", registry.arena))
    return ours if registry.pinned is None else chain(ours, _of_arena("pinned", registry.pinned))


async def _written(families: Iterable[Family], names: Collection[str]) -> bytes:
    written: list[str] = []
    for family in families:
        if selected(family, names):
            for line in lines(family, names):
                written.append(line)
                if len(written) % LINES == 0:
                    await trio.lowlevel.checkpoint()
    return "".join(written).encode()


def _health(registry: Registry) -> Family:
    return Family("wfserve_healthy", "gauge", "What /ping says: 1 or 0", [(NO_LABELS, registry.healthy())])


def _of_workflows(names: list[Served]) -> Iterator[Family]:
    labelled = [
        (_labels(each.name, each.label(version)), workflow)
        for each in names
        for version, workflow in each.running.items()
    ]
    in_flight: Samples = [(Labels(*labels), workflow.in_flight) for labels, workflow in labelled]
    yield Family("wfserve_requests_in_flight", "gauge", "Requests being walked", in_flight)
    ended: Samples = [
        (Labels(*labels, ("outcome", outcome)), count)
        for labels, workflow in labelled
        for outcome, count in workflow.measured.by_outcome.items()
    ]
    yield Family("wfserve_requests_total", "counter", "Requests that were walked, by how they ended", ended)
    times: Samples = [
        (Labels(*labels), each.measured.time) for labels, each in labelled if each.measured.time.count
    ]
    yield Family("wfserve_request_seconds", "histogram", "How long requests were walked", times)
    mirrored: Samples = [
        (Labels(*labels, ("outcome", outcome)), count)
        for labels, workflow in labelled
        for outcome, count in workflow.mirrored.items()
    ]
    yield Family("wfserve_shadow_requests_total", "counter", _MIRRORED, mirrored)


def _labels(workflow: str, version: str | None) -> list[tuple[str, str]]:
    """Return the labels of a workflow: with its version, where versions were given."""
    return [("workflow", workflow), *([] if version is None else [("version", version)])]


def _of_pools(nodes: list[Node]) -> Iterator[Family]:
    """Give what is known of workers, where they are kept."""
    return _of_parts(_POOL_PARTS, _labelled(nodes))


def _of_loans(nodes: list[Node]) -> Iterator[Family]:
    """Give what a front end runs on workers, to be added to what is known where they are kept.

    There they are idle meanwhile.
    """
    labelled = _labelled(nodes)
    for name, factor in (("idle", -1), ("running", 1)):
        samples: Samples = [(labels, factor * each.pool.begun) for labels, each in labelled]
        yield Family(f"wfserve_workers_{name}", "gauge", "", samples)


def _labelled(nodes: list[Node]) -> list[tuple[Labels, Node]]:
    return [(Labels(*_labels(each.workflow, each.label), ("node", each.node)), each) for each in nodes]


def _of_parts(parts: Iterable[Part], labelled: list[tuple[Labels, Node]]) -> Iterator[Family]:
    for kind, part, prefix, texts in parts:
        for name, text in texts.items():
            samples: Samples = [(labels, getattr(getattr(each, part), name)) for labels, each in labelled]
            suffix = "_total" if kind == "counter" else ""
            yield Family(f"wfserve_{prefix}_{name}{suffix}", kind, text, samples)


def _of_nodes(nodes: list[Node]) -> Iterator[Family]:
    labelled = _labelled(nodes)
    yield from _of_parts(_PARTS, labelled)
    copies: Samples = [(labels, each.measured.copies) for labels, each in labelled]
    yield Family("wfserve_input_copies_total", "counter", _COPIES, copies)
    for name, (shown, text) in _HISTOGRAMS.items():
        histograms = [(labels, getattr(each.measured, name)) for labels, each in labelled]
        used: Samples = [(labels, each) for labels, each in histograms if each.count]
        yield Family(f"wfserve_node_{shown}", "histogram", text, used)


def _of_arena(prefix: str, arena: Arena) -> Iterator[Family]:
    statistics = arena.statistics()
    for name, text in _ARENA.items():
        yield Family(f"wfserve_{prefix}_{name}", "gauge", text, [(NO_LABELS, getattr(statistics, name))])
