"""The nodes of all workflows as TorchServe's models, `W__N`: listed, described and scaled, never registered.

A describe job asks the handler itself; the fields, their order and the words are TorchServe's.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import orjson
import trio
from quart import Blueprint, Response, request

from wfserve.archive.spec import MOST_WORKERS
from wfserve.dag.walk import Request
from wfserve.errors import BadRequestError, NoWorkerError, ServiceUnavailableError
from wfserve.http.author import changing
from wfserve.http.description import document
from wfserve.http.parameters import is_true, json_response, number, page, refuse_misspelt
from wfserve.measure.histogram import Histogram
from wfserve.registry.serving import paged
from wfserve.transport.frame import Kind
from wfserve.transport.publish import publish
from wfserve.workers.resident import resident_bytes

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.registry.catalogue import Registry
    from wfserve.registry.prepare import NodePlan
    from wfserve.registry.workflow import Workflow
    from wfserve.scheduling.desk import Desk
    from wfserve.scheduling.dispatch import Stage
    from wfserve.transport.base import Arena
    from wfserve.workers.base import ReplicaStatus

# What a model's configuration says of features that are TorchServe's frontend's, and what is said without.
_ECHOED: Mapping[str, int | str | bool] = {
    "maxRetryTimeoutInSec": 300,
    "clientTimeoutInMills": 0,
    "parallelType": "",
    "parallelLevel": 0,
    "deviceType": "cpu",
    "continuousBatching": False,
    "useJobTicket": False,
    "useVenv": False,
    "stateful": False,
    "sequenceMaxIdleMSec": 0,
    "sequenceTimeoutMSec": 0,
    "maxNumSequence": 0,
    "maxSequenceJobQueueSize": 0,
}


_SCALING = ("min_worker", "max_worker", "synchronous", "model_version", "timeout", "number_gpu")


def blueprint(registry: Registry) -> Blueprint:
    """Return the routes of `/models` over `registry`."""
    routes = Blueprint("models", __name__)

    @routes.get("/models")
    async def list_() -> Response:
        urls = {
            plan.worker.name: plan.url
            for served in registry.names
            if (workflow := served.running.get(served.record.default)) is not None
            for plan in workflow.blueprint.nodes.values()
            if plan.url is not None  # function nodes are not listed
        }
        names, following = paged(sorted(urls), *page())
        listed: dict[str, Any] = {} if following is None else {"nextPageToken": str(following)}
        listed["models"] = [{"modelName": name, "modelUrl": urls[name]} for name in names]
        return json_response(listed)

    @routes.get("/models/<name>")
    @routes.get("/models/<name>/<version>")
    async def describe(name: str, version: str | None = None) -> Response:
        if version == "all":
            return json_response([await _description(registry, *each) for each in registry.nodes(name)])
        workflow, plan = registry.node(name, version)
        described = await _description(registry, workflow, plan)
        if is_true(request.args.get("customized")):
            described |= await _metadata(workflow, plan, registry.arena)
        return json_response([described])

    @routes.route("/models/<name>", methods=["OPTIONS"])
    async def describe_api(name: str) -> Response:
        registry.node(name)
        return json_response(document(["management"], "/models/"))

    @routes.put("/models/<name>")
    @routes.put("/models/<name>/<version>")
    async def scale(name: str, version: str | None = None) -> Response:
        refuse_misspelt(request.args, _SCALING)
        version = version or request.args.get("model_version") or None
        minimum, maximum = _bounds()
        asked = {"min_worker": minimum, "max_worker": maximum, "version": version}
        async with changing(registry, "settings", name, asked) as author:
            workflow, plan = await registry.scale(name, version, minimum, maximum, author=author)
        if not is_true(request.args.get("synchronous")):
            return json_response({"status": "Processing worker updates..."}, 202)
        await workflow.scaled(plan.node)
        of_version = f", version: {version}" if version else ""
        return json_response({"status": f"Workers scaled to {minimum} for model: {name}{of_version}"})

    @routes.put("/models/<name>/<version>/set-default")
    async def set_default(name: str, version: str) -> Response:
        workflow, _ = registry.node(name, version)
        if workflow is not registry.lookup(workflow.name):
            raise BadRequestError(
                f"Nodes get their default version with their workflow: "
                f"PUT /workflows/{workflow.name}/{workflow.version}/set-default"
            )
        said = f'Default version successfully updated for model "{name}" to "{version}"'
        return json_response({"status": said})

    return routes


def _bounds() -> tuple[int, int]:
    """Return how few and how many workers the query asks for."""
    minimum = number("min_worker", 1)
    maximum = number("max_worker", minimum)
    if minimum < 0:
        raise BadRequestError("min_worker cannot be less than 0.")
    if maximum < minimum:
        raise BadRequestError("max_worker cannot be less than min_worker.")
    if maximum > MOST_WORKERS:
        raise BadRequestError(f"max_worker cannot be more than {MOST_WORKERS}.")
    return minimum, maximum


async def _description(registry: Registry, workflow: Workflow, plan: NodePlan) -> dict[str, Any]:
    stage = workflow.route.stages[plan.node]
    statistics = stage.pool.statistics()
    least, most = plan.stage.min_workers, plan.stage.max_workers
    pids = {replica.pid for replica in statistics.replicas} - {0}
    shared_with = workflow.sharing(plan.node)
    memory = await trio.to_thread.run_sync(resident_bytes, pids)
    return {
        "modelName": plan.worker.name,
        "modelVersion": plan.version,
        **({} if plan.url is None else {"modelUrl": plan.url}),
        "runtime": (plan.worker.manifest or {}).get("runtime") or "python",
        "minWorkers": least,
        "maxWorkers": most,
        **({} if least == most else {"wantedWorkers": statistics.wanted}),
        "batchSize": plan.settings.batch_size,
        "maxBatchDelay": plan.settings.max_batch_delay_ms,
        "responseTimeout": int(plan.response_timeout),
        "startupTimeout": int(plan.stage.startup_timeout),
        **_echoed(plan),
        "loadedAtStartup": workflow.loaded_at_startup,
        **({} if shared_with is None else {"shared": True, "sharedWith": shared_with}),
        "workers": [_worker(replica, memory, plan) for replica in statistics.replicas],
        "jobQueueStatus": await _queues(registry, workflow, plan, stage),
    }


def _echoed(plan: NodePlan) -> dict[str, int | str | bool]:
    """Return what the model's configuration says, where it is of the right type."""
    config = plan.worker.model_config
    said = {**config, "deviceType": _device(plan), "stateful": config.get("sequenceBatching")}
    return {
        key: said[key] if type(said.get(key)) is type(default) else default
        for key, default in _ECHOED.items()
    }


def _device(plan: NodePlan) -> str:
    return "gpu" if plan.seats.placement.on_gpu else "cpu"


def _worker(replica: ReplicaStatus, memory: Mapping[int, int], plan: NodePlan) -> dict[str, Any]:
    return {
        "id": replica.id,
        "startTime": _instant(replica.started),
        "status": "READY" if replica.state in ("READY", "BUSY") else "UNLOADING",
        "memoryUsage": memory.get(replica.pid, 0),
        "pid": replica.pid,
        "gpu": plan.seats.placement.on_gpu,
        "gpuUsage": "N/A",
    }


def _instant(seconds: float) -> str:
    written = datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")
    return written.removesuffix("+00:00") + "Z"


async def _queues(
    registry: Registry, workflow: Workflow, plan: NodePlan, stage: Stage | Desk
) -> dict[str, int]:
    """Return how full the queues of a node are: one in each front end, where there are some."""
    waiting = stage.statistics().queued
    wanted = {("workflow", workflow.name), ("node", plan.node)}
    for families in await registry.fronts.families():
        for family in families:
            if family.name == "wfserve_node_queued":
                samples = [value for labels, value in family.samples if wanted.issubset(labels.pairs)]
                waiting += sum(int(value) for value in samples if not isinstance(value, Histogram))
    capacity = plan.stage.queue_size * registry.config.processes
    return {"remainingCapacity": max(0, capacity - waiting), "pendingRequests": waiting}


async def _metadata(workflow: Workflow, plan: NodePlan, arena: Arena) -> dict[str, Any]:
    """Ask the handler of a node to describe itself; what is no JSON object is an empty one."""
    try:
        done = await workflow.call_node(plan.node, _describe_request(arena))
    except NoWorkerError as refusal:
        raise ServiceUnavailableError(
            f'Model "{plan.worker.name}" has no worker to serve describe request. Please use scale workers '
            "API to add workers.",
            retry_after=refusal.retry_after,
        ) from refusal
    assert done is not None  # a client that leaves cancels this
    try:
        said = bytes(done.payload.borrow())
    finally:
        done.payload.release()
    return {"customizedMetadata": _object(said)} if said else {}


def _describe_request(arena: Arena) -> Request:
    given = [(name.decode("latin-1"), value.decode("latin-1")) for name, value in request.scope["headers"]]
    headers = publish(arena, orjson.dumps([*given, ("describe", "True")]), Kind.JSON)
    try:
        return Request(headers, publish(arena, b""))
    except BaseException:
        headers.release()
        raise


def _object(text: bytes) -> dict[str, Any]:
    try:
        value = orjson.loads(text)
    except orjson.JSONDecodeError:
        return {}
    return value if isinstance(value, dict) else {}
