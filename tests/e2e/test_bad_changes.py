"""Whatever is wrong with a change: one clear error, nothing has changed, and the log stays small."""

import threading

import pytest

from tests.archives import pack, pack_handler

LONG = "9" * 5000
URL = {"url": "changed.war", "workflow_name": "w", "version": "9.0"}
WRONG = {
    "no url": ("POST", "", {"params": {"version": "9.0"}}, 400, "url is required"),
    "url is a number": ("POST", "", {"json": {"url": 5}}, 400, "url is not a string"),
    "a default that is neither": (
        "POST",
        "",
        {"params": {**URL, "default": "maybe"}},
        400,
        "default is neither",
    ),
    "a replace that is neither": ("POST", "", {"json": {**URL, "replace": 2}}, 400, "replace is neither"),
    "a contradiction": (
        *("POST", "", {"params": {**URL, "default": "false", "replace": "true"}}, 400),
        "leave default away",
    ),
    "a typo": ("POST", "", {"params": {**URL, "defualt": "true"}}, 400, "did you mean default"),
    "another typo": ("POST", "", {"json": {**URL, "verison": "1"}}, 400, "did you mean version"),
    "in both places": ("POST", "?version=8.0", {"json": URL}, 400, "not in both"),
    "a long version": ("POST", "", {"params": {**URL, "version": LONG}}, 400, "not made of digits"),
    "a version in Arabic": ("POST", "", {"params": {**URL, "version": "\u0661.\u0662"}}, 400, "not made of"),
    "a version that is true": ("POST", "", {"json": {**URL, "version": True}}, 400, "not made of digits"),
    "a name with a slash": ("POST", "", {"params": {**URL, "workflow_name": "a/b"}}, 400, "part of a URL"),
    "a name with a NUL": ("POST", "", {"params": {**URL, "workflow_name": "a\0"}}, 400, "part of a URL"),
    "a name that is long": ("POST", "", {"params": {**URL, "workflow_name": LONG}}, 400, "at most 255"),
    "a digest": ("POST", "", {"params": {**URL, "sha256": LONG}}, 400, "not 64 hexadecimal digits"),
    "seconds": ("POST", "", {"json": {**URL, "startup_timeout": LONG}}, 400, "not a number of seconds"),
    "a version that is there": ("POST", "", {"params": {**URL, "version": "1.0"}}, 409, "already registered"),
    "a version in the query": ("DELETE", "/w?version=1.0", {}, 400, "no parameter 'version'"),
    "a version in a body": ("DELETE", "/w", {"json": {"version": "1.0"}}, 400, "no parameter 'version'"),
    "a version in a form": ("DELETE", "/w", {"data": {"version": "1.0"}}, 400, "not of the type"),
    "weights in a form": ("PUT", "/w/traffic", {"data": {"weights": "1.0:1"}}, 400, "not of the type"),
    "JSON that is not said to be": ("PUT", "/w/traffic", {"content": b"{}"}, 400, "not of the type"),
    "a node in the query": ("DELETE", "/w/1.0?node=m", {}, 400, "no parameter 'node'"),
    "all versions": ("DELETE", "/w/all", {}, 404, "version: all does not exist"),
    "no name": ("DELETE", "//1.0", {}, 404, "not found"),
    "another version": ("PUT", "/w/1.0/set-default?version=2.0", {}, 400, "no parameter 'version'"),
    "a version to roll back to": ("PUT", "/w/rollback?version=1.0", {}, 400, "no parameter 'version'"),
    "no version": ("PUT", "/w/set-default", {}, 404, "version: set-default"),
    "weights that are false": ("PUT", "/w/traffic", {"json": {"weights": False}}, 400, "is not"),
    "a version with two weights": ("PUT", "/w/traffic?weights=1.0:9,1.0 :1", {}, 400, "a version twice"),
    "two shadows": ("PUT", "/w/traffic?shadow=1.0&shadow=2.0", {}, 400, "shadow is given more than once"),
    "two defaults": ("POST", "", {"params": {**URL, "default": ["true", "false"]}}, 400, "more than once"),
    "an infinite weight": ("PUT", "/w/traffic?weights=1.0:1e400", {}, 400, "at most 1e+06"),
    "a long weight": ("PUT", "/w/traffic", {"json": {"weights": {"1.0": LONG}}}, 400, "at most 1e+06"),
    "a weight that is none": (
        "PUT",
        "/w/traffic",
        {"json": {"weights": {"1.0": [LONG]}}},
        400,
        "not a number",
    ),
    "a setting twice": ("PUT", "/w?timeout_ms=5", {"json": {"batch_size": 2}}, 400, "not in both"),
    "a long setting": ("PUT", "/w", {"json": {"batch_size": LONG}}, 400, "not a whole number"),
    "a setting that is too large": ("PUT", "/w?timeout_ms=99999999999", {}, 400, "an integer from 1 to"),
    "a setting below 0": ("PUT", "/w?node=m&max_batch_delay=-1", {}, 400, "from 0 to 2147483647, not -1"),
    "two values of a setting": ("PUT", "/w?timeout_ms=5&timeout_ms=6", {}, 400, "more than once"),
    "one wrong of two": ("PUT", "/w", {"json": {"batch_size": 0, "timeout_ms": 9}}, 400, "from 1 to"),
    "a version as a setting": ("PUT", "/w?timeout_ms=5&version=2.0", {}, 400, "no parameter 'version'"),
    "a sample in the query": ("DELETE", "/w/sample?record=true", {}, 400, "no parameter 'record'"),
}


@pytest.fixture(scope="module")
def changed(server, store):
    pack_handler(store, "changed", "def handle(data, context):\n    return data and ['x' for _ in data]\n")
    pack(store, "changed", "models:\n  m: {url: changed.mar}\ndag:\n  m: []\n")
    for version in ("1.0", "2.0"):
        given = {"url": "changed.war", "workflow_name": "w", "version": version}
        assert server.call("POST", "/workflows", params=given).status_code == 200
    assert server.call("PUT", "/workflows/w/sample", content=b"x").status_code == 200
    yield server
    server.call("DELETE", "/workflows/w")


def described(server):
    paths = ("/workflows/w/all", "/workflows", "/models", "/models/w__m/all", "/workflows/w/sample")
    found = [server.call("GET", path).json() for path in paths]
    for model in found[3]:
        del model["workers"], model["jobQueueStatus"]  # change by themselves
    return found


@pytest.mark.parametrize(("method", "path", "given", "status", "why"), WRONG.values(), ids=WRONG)
def test_one_clear_error_and_nothing_has_changed(changed, method, path, given, status, why):
    before = described(changed)
    refused = changed.call(method, f"/workflows{path}", **given)
    error = refused.json()
    assert (refused.status_code, error["code"]) == (status, status)
    assert why in error["message"]
    assert len(error["message"]) < 400
    assert described(changed) == before


@pytest.mark.parametrize(
    ("path", "status", "why"),
    [
        ("?min_workers=2", 400, "did you mean min_worker?"),
        ("?min_worker=2&max_worker=1", 400, "cannot be less than min_worker"),
        (f"?min_worker={LONG[:400]}", 400, "cannot be more than 1024"),
        (f"?min_worker=x{LONG[:400]}", 400, "not a whole number"),
        ("/9.0?min_worker=1", 404, "version: 9.0 does not exist"),
    ],
)
def test_scaling_a_node(changed, path, status, why):
    before = described(changed)
    refused = changed.call("PUT", f"/models/w__m{path}")
    assert (refused.status_code, why in refused.json()["message"]) == (status, True)
    assert len(refused.json()["message"]) < 400
    assert described(changed) == before


def test_what_torchserves_clients_may_say_beside_it_is_no_error(changed):
    given = {"url": "changed.war", "workflow_name": "w", "version": "3.0", "initial_workers": "1"}
    assert changed.call("POST", "/workflows", params={**given, "runtime": "python"}).status_code == 200
    gone = changed.call("DELETE", "/workflows/w/3.0?synchronous=true&timeout=5")
    assert gone.status_code == 200


def test_the_log_keeps_little_of_what_was_refused(changed):
    changed.call("POST", "/workflows", params={"url": "x" * 6000})
    (last,) = changed.call("GET", "/history?limit=1").json()["changes"]
    assert last["outcome"].startswith("Workflow not found")
    assert len(last["outcome"]) <= 1024


def test_of_two_contradicting_changes_at_once_one_wins(changed):
    """Or the other comes so late that both are made, one after the other."""
    answers = []

    def change(path):
        answers.append(changed.call("PUT", path).status_code)

    for _ in range(10):
        answers.clear()
        paths = (
            "/workflows/w/1.0/set-default",
            "/workflows/w/2.0/set-default",
            "/workflows/w/sample?record=true",
        )
        threads = [threading.Thread(target=change, args=(path,)) for path in paths]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(answers)[:2] == [200, 200]  # the sample contradicts neither
        assert sorted(answers)[2] in (200, 409)
    changed.call("PUT", "/workflows/w/sample", content=b"x")
