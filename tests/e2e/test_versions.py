"""Versions of a workflow on both servers: who answers, what is shown, and how they come and go."""

import http.client
import socket
import threading
import time
import zipfile
from contextlib import contextmanager

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.archives import chain, pack, pack_handler

WORDS = ("one", "two", "three")


def speaking(word):
    """Functions of a workflow that answers `word`, or fails if it is told to."""
    return f"""
        import time

        def say(data, context):
            if data and bytes(data[0].get("body") or b"") == b"slow":
                time.sleep(0.5)
            if data and bytes(data[0].get("body") or b"") == b"fail":
                raise ValueError("as told")
            return data and [{word!r} for _ in data]
    """


@pytest.fixture(scope="module")
def words(store):
    for word in WORDS:
        pack(store, f"say-{word}", chain("say", settings="retry-attempts: 0"), speaking(word))


@pytest.fixture
def say(server, words):
    """Register versions of the workflow `say`, which is gone in the end."""

    def register(word, **parameters):
        given = {"url": f"say-{word}.war", "workflow_name": "say", **parameters}
        return server.call("POST", "/workflows", params=given)

    yield register
    server.call("DELETE", "/workflows/say")


def error_of(response):
    body = response.json()
    return response.status_code, body["type"], body["message"]


def said(server, path="say"):
    response = server.predict(path)
    return response.text if response.status_code == 200 else response.status_code


def test_versions_come_and_go(server, say):
    assert say("one", version="1.0").status_code == 200
    assert say("two", version="2.0").status_code == 200
    assert [said(server, path) for path in ("say", "say/", "say/1.0", "say/2.0", "say/3.0")] == [
        *("one", "one", "one", "two", 404)
    ]
    assert server.predict("say/2.0/more").text == "two"
    default = server.call("PUT", "/workflows/say/2.0/set-default")
    assert default.json() == {"status": 'Default version successfully updated for workflow "say" to "2.0"'}
    assert said(server) == "two"
    refused = server.call("DELETE", "/workflows/say/2.0")
    assert error_of(refused) == (
        403,
        "InvalidModelVersionException",
        "Cannot remove default version for workflow say",
    )
    gone = server.call("DELETE", "/workflows/say/1.0")
    assert gone.json() == {"status": 'Workflow "say" version "1.0" unregistered'}
    assert [said(server, path) for path in ("say", "say/1.0")] == ["two", 404]
    assert server.call("DELETE", "/workflows/say/2.0").status_code == 200  # the last one is all of it
    assert said(server) == 404


def test_a_further_version_may_be_the_default_at_once_and_replace_the_one_before(server, say):
    assert say("one", version="1.0").status_code == 200
    assert say("two", version="2.0", default="true").status_code == 200
    assert said(server) == "two"
    assert say("three", version="3.0", replace="true").status_code == 200
    assert [said(server, path) for path in ("say", "say/1.0", "say/2.0")] == ["three", "one", 404]


def test_versions_are_described(server, say):
    say("one", version="1.0")
    say("two", version="2.0")

    def shown(path):
        found = server.call("GET", f"/workflows/{path}").json()
        return [(each["version"], each["defaultVersion"], each["workflowUrl"]) for each in found]

    one, two = ("1.0", True, "say-one.war"), ("2.0", False, "say-two.war")
    assert shown("say") == shown("say/1.0") == [one]
    assert shown("say/2.0") == [two]
    assert shown("say/all") == [one, two]
    listed = server.call("GET", "/workflows").json()["workflows"]
    assert {"workflowName": "say", "workflowUrl": "say-one.war"} in listed
    assert error_of(server.call("GET", "/workflows/say/3.0")) == (
        404,
        "ModelVersionNotFoundException",
        "Workflow version: 3.0 does not exist for workflow: say",
    )


def test_where_no_version_was_given_everything_is_as_before(server, say):
    say("one")
    assert said(server, "say/whatever") == "one"
    assert server.call("GET", "/workflows/say").json()[0].keys().isdisjoint({"version", "defaultVersion"})
    assert server.metric("wfserve_requests_total", workflow="say", outcome="2xx") == 1
    assert error_of(say("two")) == (409, "ConflictStatusException", "Workflow say is already registered.")
    assert say("two", version="2.0").status_code == 200  # from now on versions are told apart
    assert [said(server, path) for path in ("say", "say/1.0", "say/2.0", "say/whatever")] == [
        *("one", "one", "two", 404)
    ]
    assert server.metric("wfserve_requests_total", workflow="say", version="1.0", outcome="2xx") == 3


def test_a_version_of_the_archive(server, store, say):
    pack(store, "own", 'version: "7.10"\n' + chain("say"), speaking("seven"))
    pack(store, "number", "version: 7.10\n" + chain("say"), speaking("seven"))
    assert (
        server.call("POST", "/workflows", params={"url": "own.war", "workflow_name": "say"}).status_code
        == 200
    )
    assert [said(server, path) for path in ("say/7.10", "say/7.1")] == ["seven", 404]
    refused = server.call("POST", "/workflows", params={"url": "number.war", "workflow_name": "say"})
    assert refused.status_code == 400
    assert 'write it in quotes, "7.10"' in refused.json()["message"]


def test_nodes_of_versions(server, store, say):
    handler = "def handle(data, context):\n    return data and [{!r} for _ in data]\n"
    for word in ("one", "two"):
        pack_handler(store, f"m-{word}", handler.format(word))
        pack(store, f"model-{word}", f"models:\n  m: {{url: m-{word}.mar}}\ndag:\n  m: []\n")
    for word, version in (("one", "1.0"), ("two", "2.0")):
        given = {"url": f"model-{word}.war", "workflow_name": "say", "version": version}
        assert server.call("POST", "/workflows", params=given).status_code == 200

    def node(path):
        return server.call("POST", f"/predictions/say__m{path}", api="inference").text

    assert [node(""), node("/1.0"), node("/2.0")] == ["one", "one", "two"]

    def shown(path):
        return [each["modelVersion"] for each in server.call("GET", f"/models/say__m{path}").json()]

    assert [shown(path) for path in ("", "/2.0", "/all")] == [["1.0"], ["2.0"], ["1.0", "2.0"]]
    models = server.call("GET", "/models").json()["models"]
    assert [each for each in models if each["modelName"] == "say__m"] == [
        {"modelName": "say__m", "modelUrl": "m-one.mar"}
    ]
    scaled = server.call("PUT", "/models/say__m/2.0?min_worker=2&synchronous=true")
    assert scaled.json() == {"status": "Workers scaled to 2 for model: say__m, version: 2.0"}
    assert server.call("GET", "/models/say__m/2.0").json()[0]["minWorkers"] == 2
    assert server.call("GET", "/models/say__m").json()[0]["minWorkers"] == 1
    assert server.call("PUT", "/models/say__m/2.0/set-default").status_code == 400
    assert server.call("PUT", "/models/say__m/1.0/set-default").status_code == 200
    assert server.call("GET", "/models/say__m/3.0").status_code == 404
    server.call("PUT", "/workflows/say/2.0/set-default")
    assert [node(""), node("/1.0")] == ["two", "one"]


@pytest.mark.parametrize(
    ("version", "why"),
    [
        ("v1", "Version 'v1' is not made of digits and dots, such as 1.10."),
        ("1..0", "Version '1..0' is not made of digits and dots, such as 1.10."),
        ("", "Version '' is not made of digits and dots, such as 1.10."),
    ],
)
def test_a_version_that_is_none(server, say, version, why):
    assert error_of(say("one", version=version)) == (400, "BadRequestException", why)
    number = {"url": "say-one.war", "workflow_name": "say", "version": 1.1}
    refused = server.call("POST", "/workflows", json=number)
    assert refused.status_code == 400
    assert 'write it in quotes, "1.1"' in refused.json()["message"]
    assert said(server) == 404


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("PUT", "/workflows/nobody/1.0/set-default", 404),
        ("PUT", "/workflows/say/9.0/set-default", 404),
        ("PUT", "/workflows/say/rollback", 409),
        ("PUT", "/workflows/nobody/rollback", 404),
        ("DELETE", "/workflows/say/9.0", 404),
        ("DELETE", "/workflows/nobody/1.0", 404),
        ("PUT", "/workflows/nobody/traffic?weights=1.0:1", 404),
        ("PUT", "/workflows/say/traffic?weights=9.0:1", 404),
        ("PUT", "/workflows/say/traffic?weights=1.0:0", 400),
        ("PUT", "/workflows/say/traffic?weights=1.0:1,1.0:2", 400),
        ("PUT", "/workflows/say/traffic?weights=1.0:much", 400),
        ("PUT", "/workflows/say/traffic?weights=1.0:1&shadow=1.0", 400),
        ("PUT", "/workflows/say/traffic?shadow=1.0", 400),
        ("PUT", "/workflows/say/traffic?sticky_header=x", 400),
        ("PUT", "/workflows/say/traffic?weights=1.0:1&sticky_header=a%20b", 400),
        ("PUT", "/workflows/say/traffic?wieghts=1.0:1", 400),
        ("PUT", "/workflows/say", 400),
        ("PUT", "/workflows/say?batch_size=0", 400),
        ("PUT", "/workflows/say?timeout_ms=0", 400),
        ("PUT", "/workflows/say?timeout_ms=soon", 400),
        ("PUT", "/workflows/say?timeout_ms=99999999999999999999", 400),
        ("PUT", "/workflows/say?retry_attempts=-1", 400),
        ("PUT", "/workflows/say?min_worker=2", 400),
        ("PUT", "/workflows/say?node=say&min_worker=2&max_worker=1", 400),
        ("PUT", "/workflows/say?node=say&batch_size=2", 400),
        ("PUT", "/workflows/say?node=nobody&timeout_ms=1", 400),
        ("PUT", "/workflows/say?time_out=1", 400),
        ("PUT", "/workflows/say/9.0?timeout_ms=1", 404),
        ("PUT", "/workflows/nobody?timeout_ms=1", 404),
    ],
)
def test_what_is_wrong_changes_nothing_and_is_in_the_history(server, say, method, path, status):
    say("one", version="1.0")
    before = server.call("GET", "/workflows/say/all").json()
    refused = server.call(method, path)
    assert refused.status_code == status
    assert server.call("GET", "/workflows/say/all").json() == before
    (last,) = server.call("GET", "/history?limit=1").json()["changes"]
    assert last["outcome"] == refused.json()["message"]
    assert (last["who"], last["address"]) == ("anybody", "127.0.0.1")


@contextmanager
def four_clients(server):
    """Four that ask for `say` while the block runs; gives what they have been answered."""
    answers, stop = [], threading.Event()

    def ask():
        while not stop.is_set():
            answers.append(said(server))

    clients = [threading.Thread(target=ask) for _ in range(4)]
    for client in clients:
        client.start()
    try:
        yield answers
    finally:
        stop.set()
        for client in clients:
            client.join()


def test_no_request_is_lost_when_the_default_is_replaced(server, say):
    say("one", version="1.0")
    with four_clients(server) as answers:
        after = []
        for number, word in enumerate(("two", "three", "one", "two"), 2):
            assert say(word, version=f"{number}.0", replace="true").status_code == 200
            after.append(said(server) == word)
    assert set(answers) <= set(WORDS)
    assert after == [True] * 4
    assert len(server.call("GET", "/workflows/say/all").json()) == 1


def test_a_slow_request_of_a_version_that_is_replaced_is_answered(server, say):
    say("one", version="1.0")
    answers = []
    slow = threading.Thread(target=lambda: answers.append(server.predict("say", b"slow").text))
    slow.start()
    while not server.metric("wfserve_requests_in_flight", workflow="say", version="1.0"):
        pass
    say("two", version="2.0", replace="true")
    assert said(server) == "two"
    slow.join()
    assert answers == ["one"]


@pytest.mark.parametrize(("path", "answer"), [("/wfpredict/say", "two"), ("/predictions/say__say", "two")])
def test_a_body_that_comes_while_the_default_is_replaced(server, say, path, answer):
    say("one", version="1.0")
    with socket.create_connection(("127.0.0.1", server.ports["inference"])) as client:
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: 2\r\nExpect: 100-continue\r\n\r\n"
        client.sendall(head.encode())
        assert client.recv(1000).startswith(b"HTTP/1.1 100")  # the default has been looked up
        assert say("two", version="2.0", replace="true").status_code == 200
        client.sendall(b"hi")
        response = http.client.HTTPResponse(client)
        response.begin()
        assert (response.status, response.read().decode()) == (200, answer)


def test_metrics_tell_versions_apart(server, say):
    for word, version in (("one", "1.0"), ("two", "2.0")):
        say(word, version=version)
        assert said(server, f"say/{version}") == word
    families = text_string_to_metric_families(server.call("GET", "/metrics", api="metrics").text)
    samples = [sample for family in families for sample in family.samples]
    named = [(sample.name, *sorted(sample.labels.items())) for sample in samples]
    assert len(set(named)) == len(named)  # Prometheus would refuse all of them
    jobs = {
        sample.labels["model_version"]: sample.value
        for sample in samples
        if sample.name == "ts_inference_requests_total" and sample.labels["model_name"] == "say__say"
    }
    assert jobs == {"1.0": 1, "2.0": 1}
    assert server.metric("wfserve_node_attempts_total", node="say", version="2.0", workflow="say") == 1


def test_rolling_back(server, say):
    say("one", version="1.0")
    say("two", version="2.0", default="true")
    assert said(server) == "two"
    back = server.call("PUT", "/workflows/say/rollback")
    assert back.json() == {"status": 'Workflow "say" rolled back to version "1.0"'}
    assert said(server) == "one"
    server.call("PUT", "/workflows/say/rollback")
    assert said(server) == "two"


def test_traffic_is_split_and_sticks(server, say):
    for word, version in (("one", "1.0"), ("two", "2.0")):
        say(word, version=version)
    split = {"weights": {"1.0": 1, "2.0": 1}, "sticky_header": "X-User"}
    assert server.call("PUT", "/workflows/say/traffic", json=split).status_code == 200
    assert {said(server) for _ in range(64)} == {"one", "two"}
    by_user = {
        user: {server.predict("say", headers={"x-user": str(user)}).text for _ in range(5)}
        for user in range(20)
    }
    assert all(len(words) == 1 for words in by_user.values())
    assert set.union(*by_user.values()) == {"one", "two"}
    described = server.call("GET", "/workflows/say/2.0").json()[0]
    assert (described["weight"], described["stickyHeader"]) == (1, "x-user")
    conflict = server.call("DELETE", "/workflows/say/2.0")
    assert error_of(conflict)[0] == 409
    assert server.call("PUT", "/workflows/say/traffic").status_code == 200
    assert {said(server) for _ in range(16)} == {"one"}


def test_a_shadow_is_compared_and_not_heard(server, say):
    say("one", version="1.0")
    say("two", version="2.0")
    assert server.call("PUT", "/workflows/say/traffic?shadow=2.0").status_code == 200
    assert [said(server) for _ in range(3)] == ["one"] * 3
    assert server.predict("say", b"fail").status_code == 500

    def mirrored(outcome):
        try:
            return server.metric(
                "wfserve_shadow_requests_total", workflow="say", version="2.0", outcome=outcome
            )
        except StopIteration:
            return 0

    while mirrored("different") + mirrored("same") < 4:
        pass
    assert (mirrored("different"), mirrored("same")) == (3, 1)
    assert server.call("GET", "/workflows/say/2.0").json()[0]["shadow"] is True


def test_settings_change_while_requests_go_on(server, say, store):
    size = "str(context.system_properties['batch_size'])"
    handler = f"def handle(data, context):\n    return data and [{size} for _ in data]\n"
    pack_handler(store, "batched", handler)
    pack(store, "batched", "models:\n  m: {url: batched.mar}\ndag:\n  m: []\n")
    assert (
        server.call("POST", "/workflows", params={"url": "batched.war", "workflow_name": "say"}).status_code
        == 200
    )
    with four_clients(server) as answers:
        for size in (4, 2, 8):
            changed = server.call("PUT", "/workflows/say", json={"batch_size": size, "timeout_ms": 9000})
            assert changed.json() == {"status": 'Workflow "say" updated'}
            assert said(server) == str(size)
        assert server.call("PUT", "/workflows/say?node=m&max_worker=2&min_worker=2").status_code == 200
    assert set(answers) == {"1", "4", "2", "8"}
    described = server.call("GET", "/models/say__m").json()[0]
    assert (described["batchSize"], described["minWorkers"], described["maxWorkers"]) == (8, 2, 2)
    assert server.call("GET", "/workflows/say").json()[0]["changed"] == {
        "m": {"minWorkers": 2, "maxWorkers": 2, "batchSize": 8, "timeout": 9000}
    }


def test_a_warm_up_that_fails_keeps_a_version_from_being_served(server, store, say):
    say("one", version="1.0")
    given = {"url": "warmed.war", "workflow_name": "say", "version": "2.0", "default": "true"}
    with_samples(store, "say-two.war", {"a.bin": b"hello", "b.bin": b"fail"})
    refused = server.call("POST", "/workflows", params=given)
    assert error_of(refused) == (
        500,
        "WorkflowException",
        "Version 2.0 of workflow say has failed its warm-up with warm-up/b.bin: Error executing say",
    )
    assert [said(server), said(server, "say/2.0")] == ["one", 404]
    with_samples(store, "say-two.war", {"a.bin": b"hello"})
    assert server.call("POST", "/workflows", params=given).status_code == 200
    assert said(server) == "two"


def with_samples(store, archive, samples):
    """Copy `archive` to `warmed.war`, with `samples` added."""
    with zipfile.ZipFile(store / archive) as plain, zipfile.ZipFile(store / "warmed.war", "w") as warmed:
        for entry in plain.infolist():
            warmed.writestr(entry, plain.read(entry))
        for name, sample in samples.items():
            warmed.writestr(f"warm-up/{name}", sample)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_fifty_changes_under_sixteen_clients(server, say):
    """None of them costs a request, or an answer of another version once it is acknowledged."""
    say("one", version="1.0")
    words, default, previous = {"1.0": "one"}, "1.0", None
    answers, stop = [], threading.Event()
    spans = []  # from when, and until when, only one version could answer, and its word

    def ask():
        with httpx.Client(timeout=60, trust_env=False) as client:
            while not stop.is_set():
                began = time.monotonic()
                response = client.post(server.url("inference", "/wfpredict/say"), content=b"x")
                assert response.status_code == 200, response.text
                answers.append((began, time.monotonic(), response.text))

    clients = [threading.Thread(target=ask) for _ in range(16)]
    for client in clients:
        client.start()
    acknowledged = time.monotonic()
    try:
        for number in range(2, 52):
            kind = ("replace", "settings", "add", "rollback", "scale")[number % 5]
            word = WORDS[number % 3]
            more = len(answers) + 32
            while len(answers) < more and any(client.is_alive() for client in clients):
                time.sleep(0.001)
            spans.append((acknowledged, time.monotonic(), words[default]))
            if kind in ("replace", "add"):
                gone = default if kind == "replace" else None
                made = say(word, version=f"{number}.0", **({"replace": "true"} if gone else {}))
                assert made.status_code == 200, made.text
                if gone is None:
                    path = f"/workflows/say/{number}.0/set-default"
                    assert server.call("PUT", path).status_code == 200
                words[f"{number}.0"] = word
                previous, default = (None if gone else default), f"{number}.0"
                words.pop(gone, None)
            elif kind == "settings":
                assert server.call("PUT", f"/workflows/say?timeout_ms={20000 + number}").status_code == 200
            elif kind == "scale":
                path = f"/models/say__say?min_worker={1 + number % 2}&synchronous=true"
                assert server.call("PUT", path).status_code == 200
            else:
                back = server.call("PUT", "/workflows/say/rollback")
                assert back.status_code == 200, back.text
                previous, default = default, previous
            acknowledged = time.monotonic()
            assert said(server) == words[default]
            assert all(client.is_alive() for client in clients)
    finally:
        stop.set()
        for client in clients:
            client.join()
    settled = [
        (text, word)
        for began, ended, text in answers
        for start, end, word in spans
        if start <= began and ended <= end
    ]
    assert all(text == word for text, word in settled)
    assert len(settled) > 500
