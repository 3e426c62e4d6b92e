"""Nodes of workflows as TorchServe's models: listed, described, scaled, on our server and on hypercorn."""

import hashlib
import re
import socket
import threading

import pytest
from openapi_spec_validator import validate

from tests.archives import FUNCTIONS, pack
from tests.e2e.test_api import error_of
from tests.servers import Server
from wfserve.archive.pack import ModelArchiveOptions, pack_model

MODEL = """
import json, os

def handle(data, context):
    if data is None:
        if os.path.exists({broken!r}):
            raise RuntimeError("no weights")
        return None
    if context.get_request_header(0, "describe") == "True":
        return [{described}]
    return [row.get("body") for row in data]
"""
NO_WORKER = (
    'Model "{}" has no worker to serve inference request. Please use scale workers API to add workers. '
    "If this is a sequence inference, please check if it is closed, or expired; "
    "or exceeds maxSequenceJobQueueSize"
)


def pack_named(store, name, described="{'about': 'me'}", config=None):
    """A model of version 2.5 that does not load while the file `store/NAME-broken` is there."""
    handler = store / f"{name}_handler.py"
    handler.write_text(MODEL.format(broken=str(store / f"{name}-broken"), described=described))
    options = ModelArchiveOptions(
        name, str(handler), "2.5", config_file=config, export_path=store, force=True
    )
    return pack_model(options).name


@pytest.fixture
def named(server, store):
    """A workflow `named` of a function node and a model, registered for one test."""
    config = store / "named.yaml"
    config.write_text("responseTimeout: 33\nmaxRetryTimeoutInSec: 5\nsequenceBatching: true\nuseVenv: 3\n")
    pack_named(store, "named", config=config)
    spec = "models:\n  max-workers: 4\n  batch-size: 2\n  m: {url: named.mar}\ndag:\n  echo: [m]\n"
    pack(store, "named", spec, FUNCTIONS)
    parameters = {"url": "named.war", "response_timeout": "77", "startup_timeout": "66"}
    assert server.call("POST", "/workflows", params=parameters).status_code == 200
    yield server
    assert server.call("DELETE", "/workflows/named").status_code == 200


def described(server, name, **parameters):
    response = server.call("GET", f"/models/{name}", params=parameters)
    assert response.status_code == 200, response.text
    (found,) = response.json()
    return found


def scale(server, name, **parameters):
    return server.call("PUT", f"/models/{name}", params=parameters)


def pids(server, name):
    return {worker["pid"] for worker in described(server, name)["workers"]}


def test_a_model_is_described(named):
    found = described(named, "named__m")
    (worker,) = found.pop("workers")
    capacity = 200 if named.kind == "fronts" else 100  # each front end has a queue
    assert list(found.items()) == [
        ("modelName", "named__m"),
        ("modelVersion", "2.5"),
        ("modelUrl", "named.mar"),
        ("runtime", "python"),
        ("minWorkers", 1),
        ("maxWorkers", 4),
        ("wantedWorkers", 1),
        ("batchSize", 2),
        ("maxBatchDelay", 50),
        ("responseTimeout", 33),
        ("startupTimeout", 66),
        ("maxRetryTimeoutInSec", 5),
        ("clientTimeoutInMills", 0),
        ("parallelType", ""),
        ("parallelLevel", 0),
        ("deviceType", "cpu"),
        ("continuousBatching", False),
        ("useJobTicket", False),
        ("useVenv", False),
        ("stateful", True),
        ("sequenceMaxIdleMSec", 0),
        ("sequenceTimeoutMSec", 0),
        ("maxNumSequence", 0),
        ("maxSequenceJobQueueSize", 0),
        ("loadedAtStartup", False),
        ("jobQueueStatus", {"remainingCapacity": capacity, "pendingRequests": 0}),
    ]
    assert worker.keys() == {"id", "startTime", "status", "memoryUsage", "pid", "gpu", "gpuUsage"}
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", worker["startTime"])
    assert (worker["status"], worker["gpu"], worker["gpuUsage"]) == ("READY", False, "N/A")
    assert worker["pid"] in named.descendants()
    assert worker["memoryUsage"] > 10_000_000


def test_a_function_node_is_described_and_not_listed(named):
    found = described(named, "named__echo")
    assert "modelUrl" not in found
    assert (found["modelVersion"], found["batchSize"], found["maxBatchDelay"]) == ("1.0", 1, 0)
    assert (found["responseTimeout"], found["maxRetryTimeoutInSec"]) == (77, 300)
    listed = named.call("GET", "/models").json()
    assert listed == {"models": [{"modelName": "named__m", "modelUrl": "named.mar"}]}


def test_models_have_pages(named):
    assert named.call("GET", "/models", params={"limit": 0}).json() == {"nextPageToken": "0", "models": []}
    assert named.call("GET", "/models", params={"next_page_token": 1}).json() == {"models": []}
    assert named.call("GET", "/models", params={"limit": 1}).json()["nextPageToken"] == "1"


@pytest.mark.parametrize("path", ["named__m/2.5", "named__m/all", "named__m/all?customized=true"])
def test_a_version_is_described(named, path):
    (found,) = named.call("GET", f"/models/{path}").json()
    assert found["modelVersion"] == "2.5"
    assert "customizedMetadata" not in found


def test_a_handler_describes_itself(named):
    assert described(named, "named__m", customized="True")["customizedMetadata"] == {"about": "me"}
    assert described(named, "named__echo", customized="true")["customizedMetadata"] == {}  # of a null


@pytest.mark.parametrize("said", ["'no JSON'", "[1, 2]", "None"])
def test_a_description_that_is_no_object_is_an_empty_one(server, store, said):
    pack_named(store, "odd", said)
    pack(store, "odd", "models:\n  m: {url: odd.mar}\ndag:\n  m: []\n")
    server.register("odd.war")
    assert described(server, "odd__m", customized="true")["customizedMetadata"] == {}
    assert server.call("DELETE", "/workflows/odd").status_code == 200


@pytest.mark.parametrize("method", ["GET", "PUT"])
@pytest.mark.parametrize(
    ("path", "kind", "message"),
    [
        ("none", "ModelNotFoundException", "Model not found: none"),
        ("none/all", "ModelNotFoundException", "Model not found: none"),
        ("named__", "ModelNotFoundException", "Model not found: named__"),
        (
            "named__m/9",
            "ModelVersionNotFoundException",
            "Model version: 9 does not exist for model: named__m",
        ),
    ],
)
def test_what_is_not_there(named, method, path, kind, message):
    response = named.call(method, f"/models/{path}")
    assert response.status_code == 404
    assert error_of(response) == (kind, message)


def test_a_workflow_that_is_gone_has_no_models(server):
    assert server.call("GET", "/models/named__m").status_code == 404


def test_scaling_up_and_down(named):
    first = pids(named, "named__m")
    response = scale(named, "named__m", min_worker=3, synchronous="true")
    assert (response.status_code, response.json()) == (
        200,
        {"status": "Workers scaled to 3 for model: named__m"},
    )
    found = described(named, "named__m")
    assert (found["minWorkers"], found["maxWorkers"]) == (3, 3)
    assert [worker["status"] for worker in found["workers"]] == ["READY"] * 3
    assert len(pids(named, "named__m")) == 3
    assert first < pids(named, "named__m")
    response = named.call("PUT", "/models/named__m/2.5", params={"min_worker": 1, "synchronous": "True"})
    assert response.json() == {"status": "Workers scaled to 1 for model: named__m, version: 2.5"}
    assert len(pids(named, "named__m")) == 1
    assert named.predict("named", b"still").content == b"still"


def test_scaling_answers_at_once_unless_it_is_told_to_wait(named):
    response = scale(named, "named__m", min_worker=2, model_version="2.5")
    assert (response.status_code, response.json()) == (202, {"status": "Processing worker updates..."})
    assert scale(named, "named__m", min_worker=2, synchronous="true").status_code == 200
    assert len(pids(named, "named__m")) == 2


@pytest.mark.parametrize(
    ("parameters", "message"),
    [
        ({"min_worker": 2, "max_worker": 1}, "max_worker cannot be less than min_worker."),
        ({"max_worker": 0}, "max_worker cannot be less than min_worker."),
        ({"min_worker": -1}, "min_worker cannot be less than 0."),
        ({"min_worker": 1025}, "max_worker cannot be more than 1024."),
        ({"min_worker": "many"}, "Parameter min_worker is not a whole number: many"),
        ({"min_worker": 10**400}, "max_worker cannot be more than 1024."),
    ],
)
def test_numbers_that_make_no_sense(named, parameters, message):
    response = scale(named, "named__m", **parameters)
    assert (response.status_code, *error_of(response)) == (400, "BadRequestException", message)
    found = described(named, "named__m")
    assert (found["minWorkers"], found["maxWorkers"]) == (1, 4)


def test_a_node_without_workers(named):
    assert scale(named, "named__m", min_worker=0, synchronous="true").json() == {
        "status": "Workers scaled to 0 for model: named__m"
    }
    assert described(named, "named__m")["workers"] == []
    for path in ("/wfpredict/named", "/predictions/named__m"):
        response = named.call("POST", path, api="inference", content=b"x")
        assert (response.status_code, error_of(response)[1]) == (503, NO_WORKER.format("named__m"))
    response = named.call("GET", "/models/named__m", params={"customized": "true"})
    assert (response.status_code, *error_of(response)) == (
        503,
        "ServiceUnavailableException",
        'Model "named__m" has no worker to serve describe request. Please use scale workers API to add '
        "workers.",
    )
    assert named.call("GET", "/ping", api="inference").status_code == 200  # none is wanted


def test_a_node_that_may_have_workers_gets_one_when_it_is_asked(named):
    assert scale(named, "named__m", min_worker=0, synchronous="true").status_code == 200
    assert scale(named, "named__m", min_worker=0, max_worker=1, synchronous="true").status_code == 200
    assert pids(named, "named__m") == set()
    assert named.predict("named", b"wake").content == b"wake"
    assert len(pids(named, "named__m")) == 1


def test_workers_that_do_not_load(named, store):
    broken = store / "named-broken"
    broken.touch()
    try:
        response = scale(named, "named__m", min_worker=2, synchronous="true")
        assert (response.status_code, *error_of(response)) == (
            500,
            "InternalServerException",
            "Failed to start workers for model named__m version: 2.5",
        )
        assert named.predict("named", b"still").content == b"still"
        assert scale(named, "named__m", min_worker=1, synchronous="true").status_code == 200
        assert len(pids(named, "named__m")) == 1
    finally:
        broken.unlink()


def test_a_busy_worker_leaves_when_it_has_answered(server):
    """Two calls run on two workers; scaled down to none, both are answered and both are gone."""
    name = "obey__obey"
    assert scale(server, name, min_worker=2, synchronous="true").status_code == 200
    answers = []
    threads = [
        threading.Thread(target=lambda: answers.append(server.predict("obey", b"sleep 1"))) for _ in "ab"
    ]
    try:
        for thread in threads:
            thread.start()
        while server.metric("wfserve_node_running", workflow="obey", node="obey") < 2:
            pass
        assert scale(server, name, min_worker=0, synchronous="true").status_code == 200
        assert pids(server, name) == set()
        for thread in threads:
            thread.join()
        assert [answer.content for answer in answers] == [b"sleep 1"] * 2
    finally:
        assert scale(server, name, min_worker=1, synchronous="true").status_code == 200


def test_a_scale_whose_client_has_left_goes_on(named):
    request = b"PUT /models/named__m?min_worker=3&synchronous=true HTTP/1.1\r\nhost: localhost\r\n\r\n"
    with socket.create_connection(("127.0.0.1", named.ports["management"])) as client:
        client.sendall(request)
        while described(named, "named__m")["minWorkers"] != 3:
            pass
    while [worker["status"] for worker in described(named, "named__m")["workers"]] != ["READY"] * 3:
        pass


def test_ping_tells_of_a_node_with_too_few_workers(tmp_path, store):
    """Its worker dies, and cannot load again."""
    pack_named(store, "frail", "os.abort()")
    pack(store, "frail", "models:\n  timeout-ms: 20000\n  m: {url: frail.mar}\ndag:\n  m: []\n")
    broken = store / "frail-broken"
    with Server(tmp_path, store, load_workflows="frail.war") as server:
        server.wait_for("registered frail")
        assert described(server, "frail__m")["loadedAtStartup"] is True
        assert server.call("GET", "/ping", api="inference").json() == {"status": "Healthy"}
        broken.touch()
        try:
            response = server.call("GET", "/models/frail__m", params={"customized": "true"})
            assert response.status_code == 500
            server.wait_for("starting a worker again in")
            response = server.call("GET", "/ping", api="inference")
            assert (response.status_code, response.json()) == (500, {"status": "Unhealthy"})
        finally:
            broken.unlink()


def test_the_default_version_is_the_one_that_there_is(named):
    response = named.call("PUT", "/models/named__m/2.5/set-default")
    assert response.json() == {"status": 'Default version successfully updated for model "named__m" to "2.5"'}
    assert named.call("PUT", "/models/named__m/9/set-default").status_code == 404


@pytest.mark.parametrize(
    ("method", "path"),
    [("POST", ""), ("PUT", ""), ("DELETE", "/upper__upper"), ("DELETE", "/upper__upper/1.0"), ("POST", "/x")],
)
def test_models_are_not_registered_one_by_one(server, method, path):
    response = server.call(method, f"/models{path}", params={"url": "m.mar"})
    assert (response.status_code, error_of(response)[0]) == (405, "MethodNotAllowedException")


@pytest.mark.parametrize("api", ["inference", "management", "metrics"])
def test_every_port_describes_itself(server, api):
    asked = server.call("OPTIONS", "/", api=api)
    assert asked.json() == server.call("GET", "/api-description", api=api).json()
    validate(asked.json())
    refused = server.call("GET", "/", api=api)
    assert (refused.status_code, error_of(refused)[0]) == (405, "MethodNotAllowedException")


@pytest.mark.parametrize(("api", "path"), [("inference", "/predictions/"), ("management", "/models/")])
def test_a_model_describes_its_paths(server, api, path):
    document = server.call("OPTIONS", f"{path}upper__upper", api=api).json()
    validate(document)
    assert all(each.startswith(path) for each in document["paths"])
    assert server.call("OPTIONS", f"{path}none", api=api).status_code == 404


def test_a_digest_is_checked(server, store):
    digest = hashlib.sha256((store / "upper.war").read_bytes()).hexdigest()
    parameters = {"url": "upper.war", "workflow_name": "checked"}
    wrong = server.call("POST", "/workflows", params=parameters | {"sha256": "0" * 64})
    assert (wrong.status_code, *error_of(wrong)) == (
        400,
        "DownloadArchiveException",
        "Failed to download archive from: upper.war",
    )
    server.wait_for(f"its SHA-256 is {digest}")
    odd = server.call("POST", "/workflows", params=parameters | {"sha256": "abc"})
    assert (odd.status_code, error_of(odd)[0]) == (400, "BadRequestException")
    right = server.call("POST", "/workflows", json=parameters | {"sha256": digest.upper()})
    assert right.status_code == 200
    assert server.call("DELETE", "/workflows/checked").status_code == 200


@pytest.mark.parametrize(("given", "status"), [("true", 400), ("false", 409)])
def test_archives_do_not_come_from_s3(server, given, status):
    response = server.call("POST", "/workflows", params={"url": "upper.war", "s3_sse_kms": given})
    assert response.status_code == status
