"""The management API of workflows: register, describe, list, unregister, in TorchServe's shapes and words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
from quart import Blueprint, Response, request

from wfserve.archive.spec import SHA256
from wfserve.errors import BadRequestError
from wfserve.http.parameters import is_true, json_response, page

if TYPE_CHECKING:
    from wfserve.registry.catalogue import Registry
    from wfserve.registry.workflow import Workflow


def blueprint(registry: Registry) -> Blueprint:
    """Return the management routes over `registry`."""
    routes = Blueprint("management", __name__)

    @routes.post("/workflows")
    async def register() -> Response:
        given = await _parameters()
        url = given.get("url")
        if url is None:
            raise BadRequestError("Parameter url is required.")
        if is_true(given.get("s3_sse_kms")):
            raise BadRequestError("Parameter s3_sse_kms is not supported: archives are not fetched from S3.")
        workflow = await registry.register(
            url,
            given.get("workflow_name") or None,
            startup_timeout=_seconds(given, "startup_timeout"),
            response_timeout=_seconds(given, "response_timeout"),
            sha256=_digest(given),
        )
        said = f"Workflow {workflow.name} has been registered and scaled successfully."
        return json_response({"status": said})

    @routes.get("/workflows")
    async def list_() -> Response:
        workflows, following = registry.page(*page())
        listed: dict[str, Any] = {} if following is None else {"nextPageToken": str(following)}
        listed["workflows"] = [
            {"workflowName": workflow.name, "workflowUrl": workflow.blueprint.url} for workflow in workflows
        ]
        return json_response(listed)

    @routes.get("/workflows/<name>")
    async def describe(name: str) -> Response:
        return json_response([_description(registry.lookup(name))])

    @routes.delete("/workflows/<name>")
    async def unregister(name: str) -> Response:
        await registry.unregister(name)
        return json_response({"status": f'Workflow "{name}" unregistered'})

    return routes


def _seconds(given: dict[str, Any], name: str) -> float | None:
    """Return a parameter of whole seconds, None if it is not given or 0."""
    text = str(given.get(name, 0))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequestError(f"Parameter {name} is not a number of seconds: {text}")
    return float(text) or None


def _digest(given: dict[str, Any]) -> str:
    value = given.get("sha256")
    text = "" if value is None else str(value)
    if text and not SHA256.fullmatch(text):
        raise BadRequestError(f"Parameter sha256 is not 64 hexadecimal digits: {text}")
    return text


async def _parameters() -> dict[str, Any]:
    """Return the parameters of a registration: of a JSON body if there is one, else of the query."""
    if request.mimetype != "application/json":
        return dict(request.args)
    try:
        body = orjson.loads(await request.get_data())
    except orjson.JSONDecodeError:
        raise BadRequestError("The request body is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequestError("The request body is not a JSON object.")
    for name in ("url", "workflow_name"):
        if not isinstance(body.get(name) or "", str):
            raise BadRequestError(f"Parameter {name} is not a string.")
    return body


def _description(workflow: Workflow) -> dict[str, object]:
    settings = workflow.blueprint.archive.spec.settings
    return {
        "workflowName": workflow.name,
        "workflowUrl": workflow.blueprint.url,
        "minWorkers": settings.min_workers,
        "maxWorkers": settings.max_workers,
        "batchSize": settings.batch_size,
        "maxBatchDelay": settings.max_batch_delay_ms,
        "workflowDag": _java_map(workflow.blueprint.archive.spec.dag),
        "stages": workflow.blueprint.plan().stages,
    }


def _java_map(dag: Any) -> str:
    """Write the DAG as Java prints a map of lists, which clients of TorchServe may have learned to read."""
    return "{" + ", ".join(f"{node}=[{', '.join(children)}]" for node, children in dag.items()) + "}"
