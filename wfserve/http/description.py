"""An OpenAPI 3.0 document says what one port serves, all of it and nothing else; it is made from one table.

TorchServe describes its models alone. Here the workflows are described as well, and only what is there.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, NamedTuple

from quart import Blueprint, Response

from wfserve import __version__
from wfserve.http.parameters import ANY_METHOD, json_response

if TYPE_CHECKING:
    from collections.abc import Collection

    from wfserve.config import Api

JSON, BYTES, TEXT = "application/json", "*/*", "text/plain"
_INTEGER, _STRING, _FLAG = {"type": "integer"}, {"type": "string"}, {"type": "boolean", "default": False}


class Query(NamedTuple):
    """A parameter of a query."""

    name: str
    schema: dict[str, Any]
    description: str
    required: bool = False


class Answer(NamedTuple):
    """One status: what it means, and of which kind and schema its body is."""

    description: str
    content: str = JSON
    schema: str = "Status"  # of `_SCHEMAS`


class Operation(NamedTuple):
    """One method of one path on the port of `api`, on every port if that is None."""

    api: Api | None
    method: str
    path: str
    id: str
    summary: str
    answers: dict[int, Answer]
    query: tuple[Query, ...] = ()
    body: bool = False  # whether it takes a body, of any kind


def _object(**properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": properties}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_WORKER = _object(
    id=_STRING,
    startTime={"type": "string", "format": "date-time"},
    status={"type": "string", "enum": ["READY", "UNLOADING"]},
    memoryUsage={"type": "integer", "description": "Resident bytes of the worker and what it started."},
    pid=_INTEGER,
    gpu={"type": "boolean"},
    gpuUsage=_STRING,
)
_SCHEMAS: dict[str, dict[str, Any]] = {
    "Status": _object(status=_STRING),
    "Error": _object(code=_INTEGER, type=_STRING, message=_STRING),
    "Output": {"type": "string", "format": "binary", "description": "What the handler returned."},
    "Text": _STRING,
    "Document": {"type": "object"},
    "Workflows": _object(
        nextPageToken=_STRING, workflows=_list(_object(workflowName=_STRING, workflowUrl=_STRING))
    ),
    "Workflow": _list(
        _object(
            workflowName=_STRING,
            workflowUrl=_STRING,
            minWorkers=_INTEGER,
            maxWorkers=_INTEGER,
            batchSize=_INTEGER,
            maxBatchDelay={"type": "integer", "description": "Milliseconds."},
            workflowDag=_STRING,
            version={"type": "string", "description": "Where versions were given, as the next."},
            defaultVersion={"type": "boolean"},
            shared={"type": "object", "description": "Who has the same workers, by node with share: on."},
            changed={"type": "object", "description": "Settings that were changed, by node."},
        )
    ),
    "Sample": _object(
        workflowName=_STRING,
        sample={
            **_object(headers={"type": "object"}, bytes=_INTEGER, sha256=_STRING),
            "nullable": True,
        },
        recording={"type": "boolean", "description": "The next request that is answered becomes it."},
    ),
    "History": _object(
        nextPageToken=_STRING,
        changes=_list(
            _object(
                number=_INTEGER,
                at={"type": "string", "format": "date-time"},
                who={"type": "string", "description": "The token that was shown, or who else."},
                address=_STRING,
                what=_STRING,
                workflow={"type": "string", "nullable": True},
                arguments={"type": "object"},
                outcome={"type": "string", "description": "done, or why it was refused."},
            )
        ),
    ),
    "Models": _object(nextPageToken=_STRING, models=_list(_object(modelName=_STRING, modelUrl=_STRING))),
    "Model": _list(
        _object(
            modelName=_STRING,
            modelVersion=_STRING,
            modelUrl={"type": "string", "description": "Function nodes have none."},
            runtime=_STRING,
            minWorkers=_INTEGER,
            maxWorkers=_INTEGER,
            batchSize=_INTEGER,
            maxBatchDelay={"type": "integer", "description": "Milliseconds."},
            responseTimeout={"type": "integer", "description": "Seconds."},
            startupTimeout={"type": "integer", "description": "Seconds."},
            deviceType={"type": "string", "enum": ["cpu", "gpu"]},
            loadedAtStartup={"type": "boolean"},
            shared={"type": "boolean", "description": "Said of nodes with share: on, as the next."},
            sharedWith=_list({"type": "string", "description": "W__N, or W__N/version where given."}),
            workers=_list(_WORKER),
            jobQueueStatus=_object(remainingCapacity=_INTEGER, pendingRequests=_INTEGER),
            customizedMetadata={"type": "object", "description": "With `customized=true`."},
        )
    ),
}
_PLACES = {
    "workflow_name": "The name of a registered workflow.",
    "workflow_version": "One of its versions, digits and dots; to describe them, `all` for every one.",
    "model_name": "The name of a node: its workflow's, two underscores, its own.",
    "model_version": "The version of the node's model; it has one.",
}


def _error(description: str) -> Answer:
    return Answer(description, JSON, "Error")


def _done(description: str, schema: str = "Status") -> dict[int, Answer]:
    return {200: Answer(description, JSON, schema)}


_NO_WORKFLOW = {404: _error("There is no such workflow.")}
_NO_VERSION = {404: _error("There is no such workflow or version.")}
_BUSY_CHANGING = {409: _error("Another change of it is under way, or it gets traffic.")}
_NO_MODEL = {404: _error("There is no such model or version.")}
_BUSY = {503: _error("A queue or the memory for payloads is full, or there is no worker.")}
_PREDICTED = {
    200: Answer("What the handler returned, of the content type that it set.", BYTES, "Output"),
    400: _error("The body cannot be read, or no token was shown."),
    413: _error("The body is too large."),
    500: _error("A node failed."),
    507: _error("The handler ran out of memory."),
    **_BUSY,
}
_OF_WORKFLOW, _OF_NODE = {**_PREDICTED, **_NO_WORKFLOW}, {**_PREDICTED, **_NO_MODEL}
_HEALTH = {**_done("Every node has its workers."), 500: Answer("A node has too few, or one still loads.")}
_REGISTERED = {
    **_done("It is served."),
    400: _error("A parameter is wrong, the archive cannot be fetched, or its DAG is none."),
    404: _error("The store has no such archive, or the URL is not allowed."),
    409: _error("There is that version, or the name is being changed."),
    500: _error("The archive is not valid, or a node does not load."),
}
_SCALED = {
    **_done("The workers are there."),
    202: Answer("They are being started, or stopped."),
    400: _error("The numbers make no sense."),
    500: _error("A worker could not be started."),
    **_NO_MODEL,
}
_KEYS = {**_done("It is in the file.", "Text"), 400: _error("The key is wrong."), 404: _error("No tokens.")}
_SAMPLES = {200: Answer("One sample a line.", TEXT, "Text")}
_DOCUMENT = _done("An OpenAPI document.", "Document")
_DOCUMENT_OF = {**_DOCUMENT, **_NO_MODEL}
_WORKFLOWS, _MODELS = _done("A page of them.", "Workflows"), _done("A page of them.", "Models")
_WORKFLOW_DESCRIBED = {**_done("Its settings and its DAG.", "Workflow"), **_NO_WORKFLOW}
_WORKFLOW_GONE = {**_done("Nothing is left of it."), **_NO_WORKFLOW}
_VERSION_GONE = {
    **_done("Nothing is left of it."),
    **_NO_VERSION,
    403: _error("It is the default of several."),
    **_BUSY_CHANGING,
}
_VERSIONS_DESCRIBED = {**_done("Its settings and its DAG.", "Workflow"), **_NO_VERSION}
_CHANGED = {
    **_done("It is so."),
    400: _error("A parameter is wrong, or contradicts another."),
    **_NO_VERSION,
    **_BUSY_CHANGING,
    500: _error("New workers do not load; nothing has changed."),
    503: _error("The version has not been loaded."),
}
_SAMPLE_DESCRIBED = {**_done("What new versions have to answer.", "Sample"), **_NO_WORKFLOW}
_SAMPLE_GONE = {**_done("There is none."), 404: _error("There is no such workflow, or no sample of it.")}
_HISTORY = _done("A page of the log, the newest first.", "History")
_DEFAULT = {**_done("It is the default."), 400: _error("Its workflow has another."), **_NO_MODEL}
_DESCRIBED = {**_done("The node and its workers.", "Model"), **_NO_MODEL, **_BUSY}

_PAGE = (
    Query("limit", {"type": "integer", "default": 100, "maximum": 100}, "How many at most."),
    Query("next_page_token", {"type": "integer", "default": 0}, "The token that ended the page before."),
)
_REGISTRATION = (
    Query("url", _STRING, "A workflow archive: a name in the store, or a URL.", required=True),
    Query("workflow_name", _STRING, "Another name than the archive's."),
    Query("version", _STRING, "Another version than the archive's, digits and dots."),
    Query("default", _FLAG, "Whether it becomes the default version; the first does."),
    Query("replace", _FLAG, "Whether it becomes the default, and the one before it goes."),
    Query("startup_timeout", _INTEGER, "Seconds that a worker may take to load."),
    Query("response_timeout", _INTEGER, "Seconds that a call of one node may take."),
    Query("sha256", _STRING, "The digest that the archive must have, 64 hexadecimal digits."),
)
_SCALING = (
    Query("min_worker", {"type": "integer", "default": 1}, "How many workers there are at least."),
    Query("max_worker", _INTEGER, "How many there are at most; by default as many."),
    Query("synchronous", _FLAG, "Whether to answer when all workers have loaded."),
)
_LIVE = (
    Query("min_worker", _INTEGER, "How many workers a model has at least."),
    Query("max_worker", _INTEGER, "How many it has at most."),
    Query("batch_size", _INTEGER, "How many requests a call of it takes at most."),
    Query("max_batch_delay", _INTEGER, "Milliseconds that a request may wait for others."),
    Query("timeout_ms", _INTEGER, "Milliseconds of one attempt at a node."),
    Query("retry_attempts", _INTEGER, "Further attempts after one that failed."),
    Query("node", _STRING, "The one node that is changed, by default all that have the setting."),
)
_TRAFFIC = (
    Query("weights", _STRING, "Such as 1.0:9,2.0:1; by default the default has all."),
    Query("sticky_header", _STRING, "Requests of equal values of it go to the same version."),
    Query("shadow", _STRING, "The version that gets a copy of each request."),
)
_RECORD = (Query("record", _FLAG, "Whether to keep the next request that the default answers."),)
_LOG = (*_PAGE, Query("workflow", _STRING, "Changes of this workflow alone."))
_CUSTOMIZED = (Query("customized", _FLAG, "Whether to ask the handler as well."),)
_KEY = (Query("type", {"type": "string", "enum": ["management", "inference"]}, "Which key.", required=True),)
_NAMES = (Query("name[]", _list(_STRING), "Only these."),)

_W, _M, _V = "/{workflow_name}", "/{model_name}", "/{model_name}/{model_version}"
_WV = "/{workflow_name}/{workflow_version}"
_I: Api = "inference"
_A: Api = "management"
OPERATIONS = (
    Operation(None, "OPTIONS", "/", "apiDescription", "Describe this port.", _DOCUMENT),
    Operation(None, "GET", "/api-description", "api-description", "Describe this port.", _DOCUMENT),
    Operation(_I, "GET", "/ping", "ping", "Say whether all is well.", _HEALTH),
    Operation(_I, "POST", f"/wfpredict{_W}", "workflowPredict", "Run a workflow.", _OF_WORKFLOW, body=True),
    Operation(_I, "POST", f"/wfpredict{_WV}", "versionWorkflowPredict", "Run it.", _OF_WORKFLOW, body=True),
    Operation(_I, "POST", f"/predictions{_M}", "predictions", "Run a node alone.", _OF_NODE, body=True),
    Operation(_I, "POST", f"/predictions{_V}", "versionPredictions", "Run it.", _OF_NODE, body=True),
    Operation(_I, "OPTIONS", f"/predictions{_M}", "predictionsDescription", "Describe this.", _DOCUMENT_OF),
    Operation(_I, "POST", f"/explanations{_M}", "explanations", "Ask it to explain.", _OF_NODE, body=True),
    Operation(_I, "POST", f"/explanations{_V}", "versionExplanations", "Ask it.", _OF_NODE, body=True),
    Operation(_A, "GET", "/workflows", "listWorkflows", "List all workflows.", _WORKFLOWS, _PAGE),
    Operation(_A, "POST", "/workflows", "registerWorkflow", "Serve an archive.", _REGISTERED, _REGISTRATION),
    Operation(_A, "GET", f"/workflows{_W}", "describeWorkflow", "Describe it.", _WORKFLOW_DESCRIBED),
    Operation(_A, "DELETE", f"/workflows{_W}", "unregisterWorkflow", "Stop serving it.", _WORKFLOW_GONE),
    Operation(_A, "GET", f"/workflows{_WV}", "describeVersion", "Describe it.", _VERSIONS_DESCRIBED),
    Operation(_A, "PUT", f"/workflows{_W}", "changeWorkflow", "Change its default.", _CHANGED, _LIVE),
    Operation(_A, "PUT", f"/workflows{_WV}", "changeVersion", "Change settings.", _CHANGED, _LIVE),
    Operation(_A, "DELETE", f"/workflows{_WV}", "unregisterVersion", "Stop serving it.", _VERSION_GONE),
    Operation(_A, "PUT", f"/workflows{_WV}/set-default", "setDefaultVersion", "Have it answer.", _CHANGED),
    Operation(_A, "PUT", f"/workflows{_W}/rollback", "rollBack", "Have the last default answer.", _CHANGED),
    Operation(_A, "PUT", f"/workflows{_W}/traffic", "divideTraffic", "Divide requests.", _CHANGED, _TRAFFIC),
    Operation(_A, "GET", f"/workflows{_W}/sample", "describeSample", "Describe it.", _SAMPLE_DESCRIBED),
    Operation(_A, "PUT", f"/workflows{_W}/sample", "setSample", "Try with it.", _CHANGED, _RECORD, body=True),
    Operation(_A, "DELETE", f"/workflows{_W}/sample", "removeSample", "Forget it.", _SAMPLE_GONE),
    Operation(_A, "GET", "/history", "history", "Tell who changed what.", _HISTORY, _LOG),
    Operation(_A, "GET", "/models", "listModels", "List all models.", _MODELS, _PAGE),
    Operation(_A, "GET", f"/models{_M}", "describeModel", "Describe a node.", _DESCRIBED, _CUSTOMIZED),
    Operation(_A, "GET", f"/models{_V}", "describeModelVersion", "Describe it.", _DESCRIBED, _CUSTOMIZED),
    Operation(_A, "OPTIONS", f"/models{_M}", "modelDescription", "Describe this.", _DOCUMENT_OF),
    Operation(_A, "PUT", f"/models{_M}", "scaleModel", "Change its number of workers.", _SCALED, _SCALING),
    Operation(_A, "PUT", f"/models{_V}", "scaleModelVersion", "Scale it.", _SCALED, _SCALING),
    Operation(_A, "PUT", f"/models{_V}/set-default", "setDefault", "Name the one version.", _DEFAULT),
    Operation(_A, "GET", "/token", "renewToken", "Make a new key, by the API key.", _KEYS, _KEY),
    Operation("metrics", "GET", "/ping", "openPing", "Say whether all is well, to anybody.", _HEALTH),
    Operation("metrics", "GET", "/metrics", "metrics", "Count everything.", _SAMPLES, _NAMES),
)


def blueprint(apis: Collection[Api]) -> Blueprint:
    """Return the routes that describe a port with `apis`."""
    routes = Blueprint("description", __name__)
    described = document(apis)

    @routes.route("/", methods=["OPTIONS"])
    @routes.route("/api-description", methods=ANY_METHOD)
    async def describe() -> Response:
        return json_response(described)

    return routes


def document(apis: Collection[Api], below: str = "/") -> dict[str, Any]:
    """Return the OpenAPI document of a port with `apis`, of the paths that begin with `below`."""
    paths: dict[str, dict[str, Any]] = {}
    for operation in OPERATIONS:
        if (operation.api is None or operation.api in apis) and operation.path.startswith(below):
            paths.setdefault(operation.path, {})[operation.method.lower()] = _operation(operation)
    return {
        "openapi": "3.0.1",
        "info": {"title": "wfserve APIs", "version": __version__},
        "paths": paths,
        "components": {"schemas": _SCHEMAS},
    }


def _operation(operation: Operation) -> dict[str, Any]:
    described: dict[str, Any] = {"operationId": operation.id, "summary": operation.summary}
    if parameters := [*_path_parameters(operation.path), *map(_query_parameter, operation.query)]:
        described["parameters"] = parameters
    if operation.body:
        described["requestBody"] = {"content": {BYTES: {"schema": {"type": "string", "format": "binary"}}}}
    described["responses"] = {str(status): _response(answer) for status, answer in operation.answers.items()}
    return described


def _path_parameters(path: str) -> list[dict[str, Any]]:
    return [
        {"name": name, "in": "path", "required": True, "description": _PLACES[name], "schema": _STRING}
        for name in re.findall(r"{(\w+)}", path)
    ]


def _query_parameter(query: Query) -> dict[str, Any]:
    return {
        "name": query.name,
        "in": "query",
        "required": query.required,
        "description": query.description,
        "schema": query.schema,
    }


def _response(answer: Answer) -> dict[str, Any]:
    schema = {"$ref": f"#/components/schemas/{answer.schema}"}
    return {"description": answer.description, "content": {answer.content: {"schema": schema}}}
