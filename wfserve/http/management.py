"""The management API of workflows, in TorchServe's shapes and words; of versions, in those of its models.

/workflows                     GET: list, POST: register a version
/workflows/W[/V]               GET: describe, PUT: change settings, DELETE: unregister; all: every version
/workflows/W/V/set-default     PUT
/workflows/W/rollback          PUT: the default before the last
/workflows/W/traffic           PUT: who answers requests that name no version
/workflows/W/sample            GET, PUT, DELETE: what new versions have to answer
/history                       GET: who changed what
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import trio
from quart import Blueprint, Response, request

from wfserve.archive.spec import SHA256
from wfserve.errors import BadRequestError
from wfserve.http.author import changing
from wfserve.http.parameters import (
    boolean,
    decided,
    given_parameters,
    json_response,
    page,
    refuse_misspelt,
    refuse_parameters,
    seconds,
    shown,
    text,
)
from wfserve.http.settings import recording_of, settings_of_nodes, traffic_of
from wfserve.state.records import SAMPLED

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.registry.catalogue import Registry
    from wfserve.registry.serving import Served
    from wfserve.state.records import Workflow as Record
    from wfserve.state.store import Change

_TORCHSERVES = ("url", "workflow_name", "s3_sse_kms", "startup_timeout", "response_timeout")
_REGISTRATION = (*_TORCHSERVES, "version", "default", "replace", "sha256")
MOST_CHANGES = 1000  # of the log, in one answer


def blueprint(registry: Registry) -> Blueprint:
    """Return the management routes over `registry`."""
    routes = Blueprint("management", __name__)

    @routes.post("/workflows")
    async def register() -> Response:
        given = await given_parameters(lost=_TORCHSERVES)
        async with changing(registry, "register", text(given, "workflow_name"), given) as author:
            url = text(given, "url")
            if url is None:
                raise BadRequestError("Parameter url is required.")
            refuse_misspelt(given, _REGISTRATION)
            default, replace = decided(given, "default"), decided(given, "replace")
            if replace and default is False:
                raise BadRequestError("What replaces the default version is the default: leave default away.")
            if boolean(given, "s3_sse_kms"):
                raise BadRequestError(
                    "Parameter s3_sse_kms is not supported: archives are not fetched from S3."
                )
            workflow = await registry.register(
                url,
                text(given, "workflow_name") or None,
                given.get("version"),
                default=bool(default),
                replace=bool(replace),
                startup_timeout=seconds(given, "startup_timeout"),
                response_timeout=seconds(given, "response_timeout"),
                sha256=_digest(given),
                author=author,
            )
        said = f"Workflow {workflow.name} has been registered and scaled successfully."
        return json_response({"status": said})

    @routes.get("/workflows")
    async def list_() -> Response:
        served, following = registry.page(*page())
        listed: dict[str, Any] = {} if following is None else {"nextPageToken": str(following)}
        listed["workflows"] = [{"workflowName": each.name, "workflowUrl": each.url} for each in served]
        return json_response(listed)

    @routes.get("/workflows/<name>")
    @routes.get("/workflows/<name>/<version>")
    async def describe(name: str, version: str | None = None) -> Response:
        served = registry.served(name)
        if version == "all":
            return json_response([_description(served, each.version) for each in served.record.versions])
        return json_response([_description(served, version or served.record.default)])

    @routes.put("/workflows/<name>")
    @routes.put("/workflows/<name>/<version>")
    async def change(name: str, version: str | None = None) -> Response:
        given = await given_parameters()
        async with changing(registry, "settings", name, {**given, "version": version}) as author:
            workflow = registry.lookup(name, version)
            settings = settings_of_nodes(workflow.blueprint, given)
            await registry.change(name, workflow.version, settings, author=author)
        return json_response({"status": f'Workflow "{name}" updated'})

    @routes.delete("/workflows/<name>")
    @routes.delete("/workflows/<name>/<version>")
    async def unregister(name: str, version: str | None = None) -> Response:
        async with changing(registry, "unregister", name, {"version": version}) as author:
            await refuse_parameters()
            await registry.unregister(name, version, author=author)
        of_version = f' version "{version}"' if version else ""
        return json_response({"status": f'Workflow "{name}"{of_version} unregistered'})

    @routes.put("/workflows/<name>/<version>/set-default")
    async def set_default(name: str, version: str) -> Response:
        async with changing(registry, "set-default", name, {"version": version}) as author:
            await refuse_parameters()
            await registry.set_default(name, version, author=author)
        said = f'Default version successfully updated for workflow "{name}" to "{version}"'
        return json_response({"status": said})

    @routes.put("/workflows/<name>/rollback")
    async def roll_back(name: str) -> Response:
        async with changing(registry, "rollback", name, {}) as author:
            await refuse_parameters()
            version = await registry.roll_back(name, author=author)
        return json_response({"status": f'Workflow "{name}" rolled back to version "{version}"'})

    @routes.put("/workflows/<name>/traffic")
    async def set_traffic(name: str) -> Response:
        given = await given_parameters()
        async with changing(registry, "traffic", name, given) as author:
            await registry.set_traffic(name, traffic_of(given), author=author)
        return json_response({"status": f'Traffic of workflow "{name}" updated'})

    @routes.get("/workflows/<name>/sample")
    async def describe_sample(name: str) -> Response:
        return json_response(_sample(registry.served(name).record))

    @routes.put("/workflows/<name>/sample")
    async def set_sample(name: str) -> Response:
        given, body = dict(request.args), cast("bytes", await request.get_data())
        headers = {each: request.headers[each] for each in SAMPLED if each in request.headers}
        arguments = {**given, **headers, "bytes": len(body)}
        async with changing(registry, "sample", name, arguments) as author:
            if not recording_of(given, body):
                await registry.samples.keep(name, body, headers, author=author)
                return json_response({"status": f'Sample of workflow "{name}" updated'})
            await registry.samples.await_next(name, author=author)
        said = f'The next request that workflow "{name}" answers will be its sample'
        return json_response({"status": said})

    @routes.delete("/workflows/<name>/sample")
    async def remove_sample(name: str) -> Response:
        async with changing(registry, "remove sample", name, {}) as author:
            await refuse_parameters()
            await registry.samples.remove(name, author=author)
        return json_response({"status": f'Sample of workflow "{name}" removed'})

    @routes.get("/history")
    async def history() -> Response:
        limit, before = page()
        limit = limit if 0 <= limit <= MOST_CHANGES else MOST_CHANGES
        of = request.args.get("workflow")
        changes = await trio.to_thread.run_sync(registry.state.history, limit, before or None, of)
        listed: dict[str, Any] = {}
        if changes and len(changes) == limit and changes[-1].number > 1:
            listed["nextPageToken"] = str(changes[-1].number)
        listed["changes"] = [_change(each) for each in changes]
        return json_response(listed)

    return routes


def _digest(given: Mapping[str, Any]) -> str:
    value = given.get("sha256")
    text = "" if value is None else str(value)
    if text and not SHA256.fullmatch(text):
        raise BadRequestError(f"Parameter sha256 is not 64 hexadecimal digits: {shown(text)}")
    return text


def _description(served: Served, version: str) -> dict[str, object]:
    record = served.record.version(version)
    workflow = served.running.get(version)
    described: dict[str, object] = {"workflowName": served.name, "workflowUrl": record.url}
    if served.given:
        described |= {"version": version, "defaultVersion": version == served.record.default}
        described |= _traffic(served, version)
    if workflow is None:
        return {**described, "status": "NOT LOADED"}
    settings = workflow.blueprint.archive.spec.settings
    described |= {
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "workflowDag": _java_map(workflow.blueprint.archive.spec.dag),
        "stages": workflow.blueprint.plan().stages,
    }
    sharing = {node: workflow.sharing(node) for node in workflow.blueprint.nodes}
    if shared := {node: others for node, others in sharing.items() if others is not None}:
        described["shared"] = shared
    if record.settings:
        described["changed"] = {
            node: {_camel(name): value for name, value in each.given().items()}
            for node, each in record.settings.items()
        }
    return described


def _sample(record: Record) -> dict[str, object]:
    """Return what is known of a sample, which is not shown itself: it may be a client's."""
    kept = record.sample
    shown = kept and {"headers": kept.headers, "bytes": kept.body.size, "sha256": kept.body.digest}
    return {"workflowName": record.name, "sample": shown, "recording": record.recording}


def _traffic(served: Served, version: str) -> dict[str, object]:
    """Return what a version has of the requests that name none, if they are divided."""
    traffic = served.record.traffic
    if traffic is None:
        return {}
    shown: dict[str, object] = {"weight": traffic.weights.get(version, 0)} if traffic.weights else {}
    if traffic.sticky_header is not None:
        shown["stickyHeader"] = traffic.sticky_header
    return {**shown, "shadow": True} if traffic.shadow == version else shown


def _camel(name: str) -> str:
    """Return a setting's name as TorchServe's descriptions have it, where milliseconds have no unit."""
    first, *rest = name.removesuffix("_ms").split("_")
    return first + "".join(word.capitalize() for word in rest)


def _java_map(dag: Any) -> str:
    """Write the DAG as Java prints a map of lists, which clients of TorchServe may have learned to read."""
    return "{" + ", ".join(f"{node}=[{', '.join(children)}]" for node, children in dag.items()) + "}"


def _change(change: Change) -> dict[str, Any]:
    assert change.at is not None  # it was written
    return {
        "number": change.number,
        "at": change.at.isoformat(timespec="milliseconds"),
        "who": change.author.who,
        "address": change.author.address,
        "what": change.what,
        "workflow": change.workflow,
        "arguments": change.arguments,
        "outcome": change.outcome,
    }
