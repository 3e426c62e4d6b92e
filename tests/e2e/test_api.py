"""The management and inference APIs as TorchServe's clients know them, on our server and on hypercorn."""

import http.server
import threading

import pytest

from tests.archives import chain, pack, pack_handler

COMMON = {
    "pragma": "no-cache",
    "cache-control": "no-cache; no-store, must-revalidate, private",
    "expires": "Thu, 01 Jan 1970 00:00:00 UTC",
}


def error_of(response):
    body = response.json()
    assert body["code"] == response.status_code
    assert response.headers["connection"] == "close"
    return body["type"], body["message"]


def test_register_describe_list_unregister(server, store):
    archive = pack(
        store,
        "seeds",
        """
        models:
          min-workers: 1
          max-workers: 1
          batch-size: 8
          max-batch-delay: 5000
        dag:
          echo: [upper]
          upper: [left]
        """,
    )
    registered = server.call("POST", "/workflows", params={"url": archive})
    assert registered.status_code == 200
    assert registered.json() == {"status": "Workflow seeds has been registered and scaled successfully."}
    assert registered.text.endswith('."\n}\n')
    assert server.call("GET", "/workflows/seeds").json() == [
        {
            "workflowName": "seeds",
            "workflowUrl": "seeds.war",
            "minWorkers": 1,
            "maxWorkers": 1,
            "batchSize": 8,
            "maxBatchDelay": 5000,
            "workflowDag": "{echo=[upper], upper=[left]}",
            "stages": [["echo", "upper", "left"]],  # ours: which nodes share workers
        }
    ]
    listed = server.call("GET", "/workflows").json()["workflows"]
    assert {"workflowName": "seeds", "workflowUrl": "seeds.war"} in listed
    assert server.predict("seeds", b"abc").json() == {"left": "ABC"}
    gone = server.call("DELETE", "/workflows/seeds")
    assert gone.json() == {"status": 'Workflow "seeds" unregistered'}
    assert error_of(server.call("GET", "/workflows/seeds")) == (
        "WorkflowNotFoundException",
        "Workflow not found: seeds",
    )
    assert error_of(server.predict("seeds")) == ("WorkflowNotFoundException", "Workflow not found: seeds")


def test_register_under_another_name_by_json(server):
    body = {"url": "upper.war", "workflow_name": "renamed"}
    assert server.call("POST", "/workflows", json=body).status_code == 200
    assert server.predict("renamed", b"abc").content == b"ABC"
    assert server.call("DELETE", "/workflows/renamed").status_code == 200


def test_pages(server):
    names = sorted(w["workflowName"] for w in server.call("GET", "/workflows").json()["workflows"])
    first = server.call("GET", "/workflows", params={"limit": 2}).json()
    assert [w["workflowName"] for w in first["workflows"]] == names[:2]
    assert first["nextPageToken"] == "2"
    second = server.call("GET", "/workflows", params={"limit": 2, "next_page_token": "2"}).json()
    assert [w["workflowName"] for w in second["workflows"]] == names[2:4]
    at_the_end = server.call("GET", "/workflows", params={"limit": len(names)}).json()
    assert at_the_end["nextPageToken"] == str(len(names))  # as TorchServe has it


@pytest.mark.parametrize(
    ("parameters", "status", "kind", "message"),
    [
        ({}, 400, "BadRequestException", "Parameter url is required."),
        ({"url": ""}, 404, "WorkflowNotFoundException", "Workflow not found at: "),
        (
            {"url": "none.war"},
            404,
            "WorkflowNotFoundException",
            "Workflow not found in workflow store: none.war",
        ),
        (
            {"url": "../etc/x.war"},
            404,
            "WorkflowNotFoundException",
            "Relative path is not allowed in url: ../etc/x.war",
        ),
        (
            {"url": "http://127.0.0.1:9/x.war"},
            400,
            "DownloadArchiveException",
            "Failed to download archive from: http://127.0.0.1:9/x.war",
        ),
        ({"url": "upper.war"}, 409, "ConflictStatusException", "Workflow upper is already registered."),
        (
            {"url": "upper.war", "workflow_name": "a/b"},
            400,
            "BadRequestException",
            "Workflow name 'a/b' cannot be part of a URL.",
        ),
    ],
)
def test_registration_is_refused(server, parameters, status, kind, message):
    before = server.call("GET", "/workflows").json()
    response = server.call("POST", "/workflows", params=parameters)
    assert response.status_code == status
    assert error_of(response) == (kind, message)
    assert server.call("GET", "/workflows").json() == before


@pytest.mark.parametrize(
    "odd", ["%", "%zz", "%00", "%ff%fe", "%C3%28", "%0d%0aX:%20y", "%F0%9F%98%80", "a" * 5000]
)
def test_odd_names_are_those_of_nobody(server, odd):
    for method, path in (
        ("GET", f"/workflows/{odd}"),
        ("DELETE", f"/workflows/{odd}"),
        ("GET", f"/models/{odd}"),
        ("POST", f"/workflows?url={odd}"),
    ):
        response = server.call(method, path)
        assert (response.status_code, error_of(response)[0].endswith("NotFoundException")) == (404, True)
        assert "x" not in response.headers


@pytest.mark.parametrize("odd", ["%00", "a%0ab", "a%2Fb", "a" * 5000])
def test_odd_names_cannot_be_registered(server, odd):
    response = server.call("POST", f"/workflows?url=upper.war&workflow_name={odd}")
    assert (response.status_code, error_of(response)[0]) == (400, "BadRequestException")


def test_a_digest_that_is_no_text_is_not_overlooked(server):
    for digest in ([], 0, False, {}):
        body = {"url": "upper.war", "workflow_name": "unchecked", "sha256": digest}
        response = server.call("POST", "/workflows", json=body)
        assert (response.status_code, error_of(response)[0]) == (400, "BadRequestException")


@pytest.mark.parametrize("body", [b"{", b"[]", b'{"url": 3}', b'{"url": null}', b""])
def test_a_json_registration_that_is_none(server, body):
    response = server.call("POST", "/workflows", content=body, headers={"content-type": "application/json"})
    assert response.status_code == 400
    error_of(response)


@pytest.mark.parametrize("name", ["startup_timeout", "response_timeout"])
def test_timeouts_of_a_registration(server, name):
    bad = server.call("POST", "/workflows", params={"url": "upper.war", "workflow_name": "t", name: "soon"})
    assert (bad.status_code, error_of(bad)[1]) == (400, f"Parameter {name} is not a number of seconds: soon")
    good = server.call("POST", "/workflows", params={"url": "upper.war", "workflow_name": "t", name: "30"})
    assert good.status_code == 200
    assert server.call("DELETE", "/workflows/t").status_code == 200


def test_a_startup_timeout_is_kept(server, store):
    pack(store, "slow", chain("slow"), "import time\ndef slow(data, context):\n    time.sleep(30)\n")
    response = server.call("POST", "/workflows", params={"url": "slow.war", "startup_timeout": "1"})
    assert "Failed to start workers for model slow__slow" in error_of(response)[1]


@pytest.mark.parametrize(
    "call",
    [
        "set_response_header(0, 'x-a', 'b\\r\\nx: y')",
        "set_response_header(0, '', 'b')",
        "set_response_content_type(0, 'a\\nb')",
    ],
)
def test_a_response_header_that_cannot_be_sent_is_left_out(server, store, call):
    code = f"def odd(data, context):\n    if data:\n        context.{call}\n    return data and ['fine']\n"
    pack(store, "odd", chain("odd"), code)
    server.register("odd.war")
    response = server.predict("odd", b"x")
    assert (response.status_code, response.content) == (200, b"fine")
    assert "x" not in response.headers
    assert server.call("DELETE", "/workflows/odd").status_code == 200


def test_a_model_that_does_not_load_leaves_nothing(server, store):
    pack_handler(store, "broken", "def handle(data, context):\n    raise RuntimeError('no weights')\n")
    good = pack_handler(store, "good", "def handle(data, context):\n    return data and [b'x']\n")
    pack(store, "half", f"models:\n  a: {{url: {good}}}\n  b: {{url: broken.mar}}\ndag:\n  a: [b]\n")
    before = server.descendants()
    response = server.call("POST", "/workflows", params={"url": "half.war"})
    assert response.status_code == 500
    assert error_of(response) == (
        "WorkflowException",
        "Workflow half has failed to register. Failures: "
        "[Failed to start workers for model half__b version: 1.0]",
    )
    assert server.descendants() == before
    assert error_of(server.call("GET", "/workflows/half"))[1] == "Workflow not found: half"


def test_a_model_that_is_not_there(server, store):
    pack(store, "lacking", "models:\n  a: {url: none.mar}\ndag:\n  echo: [a]\n")
    response = server.call("POST", "/workflows", params={"url": "lacking.war"})
    assert response.status_code == 500
    assert error_of(response)[1] == (
        "Workflow lacking has failed to register. Failures: "
        "[Workflow Node lacking__a failed to register. Details: Model not found at: none.mar]"
    )


def test_a_loop_is_a_bad_request(server, store):
    pack(store, "loop", "models: {}\ndag:\n  s: [a]\n  a: [b]\n  b: [a]\n")
    response = server.call("POST", "/workflows", params={"url": "loop.war"})
    assert (response.status_code, *error_of(response)) == (400, "InvalidDAGException", "Not a valid DAG")


def test_prediction_headers(server):
    response = server.predict("upper", b"abc", headers={"x-request-id": "mine-1"})
    assert response.content == b"ABC"
    assert response.headers["content-type"] == "application/json"
    assert response.headers["x-request-id"] == "mine-1"
    assert COMMON.items() <= dict(response.headers).items()
    assert len(server.predict("upper", b"abc").headers["x-request-id"]) == 36


@pytest.mark.parametrize("method", ["GET", "POST", "PUT", "DELETE", "PATCH"])
def test_any_method_predicts(server, method):
    response = server.call(method, "/wfpredict/upper/more?x=1", api="inference", content=b"abc")
    assert response.content == b"ABC"


def test_the_first_segment_ignores_case(server):
    assert server.call("POST", "/WFPredict/upper", api="inference", content=b"abc").content == b"ABC"


def test_an_empty_body(server):
    assert server.call("GET", "/wfpredict/upper", api="inference").content == b""


def test_a_chunked_body(server):
    response = server.call("POST", "/wfpredict/upper", api="inference", content=iter([b"ab", b"c" * 100_000]))
    assert response.content == b"AB" + b"C" * 100_000


def test_a_large_body(server):
    body = bytes(range(256)) * 20_000
    assert server.predict("upper", body).content == body.upper()


@pytest.mark.parametrize("chunked", [True, False])
def test_a_body_over_the_limit(server, chunked):
    body = b"x" * 6_553_501
    response = server.predict("upper", iter([body]) if chunked else body)
    assert response.status_code == 413
    assert error_of(response)[0] == "RequestEntityTooLargeException"


def test_several_leaves(server):
    response = server.predict("leaves", b"abc")
    assert response.json() == {"left": {"left": "abc"}, "right": {"right": "abc"}}
    assert response.text.startswith('{\n  "')


def test_a_diamond(server):
    assert server.predict("diamond", b"abc").json() == {"left": {"left": "abc"}, "right": {"right": "abc"}}


@pytest.mark.parametrize("word", ["raise", "none"])
def test_a_node_that_fails(server, word):
    response = server.predict("obey", word.encode())
    assert response.status_code == 500
    assert error_of(response) == ("InternalServerException", "Error executing obey")
    assert "secret" not in response.text


def test_a_result_larger_than_what_was_lent(server):
    assert server.predict("obey", b"big 3000000").content == b"x" * 3_000_000


def test_a_result_over_the_limit(server):
    response = server.predict("obey", b"big 7000000")
    assert error_of(response)[1].startswith("The response is over 6553500 bytes")


@pytest.mark.parametrize(
    ("api", "path"),
    [
        ("inference", "/workflows"),
        ("management", "/wfpredict/upper"),
        ("management", "/metrics"),
        ("metrics", "/models"),
        ("inference", "/wfpredict"),
        ("inference", "/wfpredict/"),
    ],
)
def test_what_does_not_belong_on_a_port(server, api, path):
    response = server.call("GET", path, api=api)
    assert response.status_code == 404
    assert error_of(response) == (
        "ResourceNotFoundException",
        "Requested resource is not found, please refer to API document.",
    )


def test_a_method_that_is_not_there(server):
    response = server.call("PATCH", "/workflows")
    assert (response.status_code, error_of(response)[0]) == (405, "MethodNotAllowedException")


@pytest.mark.parametrize("header", [{"origin": "http://evil.example"}, {"host": "evil.example"}])
def test_a_foreign_page_cannot_manage_but_a_proxy_may_predict(server, header):
    refused = server.call("POST", "/workflows", params={"url": "upper.war"}, headers=header)
    assert (refused.status_code, error_of(refused)[0]) == (403, "ForbiddenException")
    assert server.predict("upper", b"abc", headers=header).content == b"ABC"


def test_ping_and_metrics(server):
    assert server.call("GET", "/ping", api="inference").json() == {"status": "Healthy"}
    server.predict("upper", b"x")
    assert server.metric("wfserve_node_attempts_total", workflow="upper", node="echo") >= 1
    only = server.call("GET", "/metrics", api="metrics", params={"name[]": "wfserve_arena_slots"}).text
    assert [line.split()[0] for line in only.splitlines() if line[0] != "#"] == ["wfserve_arena_slots"]


@pytest.fixture
def web(store):
    """A web server over the store, on loopback."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=str(store))

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Files) as site:
        thread = threading.Thread(target=site.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{site.server_address[1]}"
        site.shutdown()
        thread.join()


def test_registration_from_a_url_that_is_allowed(tmp_path, store, web):
    from tests.servers import Server

    (store / "named.mar").write_bytes((store / "upper.war").read_bytes())  # told by content, not by name
    with Server(tmp_path, store, allowed_urls=f"{web}/.*") as server:
        server.register(f"{web}/named.mar")
        assert server.predict("upper", b"abc").content == b"ABC"
        assert server.call("DELETE", "/workflows/upper").status_code == 200


def test_workflows_load_at_start(tmp_path, store):
    from tests.servers import Server

    with Server(tmp_path, store, load_workflows="upper.war,again=upper.war") as server:
        server.wait_for("registered upper")
        server.wait_for("registered again")
        assert server.predict("again", b"abc").content == b"ABC"
    assert chain("echo", "upper")
