"""What TorchServe's documentation lists as known issues of workflows, item by item, is none here.

Workers, and what is kept of a killed server, do not depend on who parses HTTP: what needs a server of its own
for them is tried on one kind.
"""

import http.server
import re
import shutil
import threading
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import httpx
import pytest

from tests.archives import FUNCTIONS, chain, pack, pack_handler
from tests.e2e.test_restart import healthy, killed
from tests.servers import Server

WEIGHT = 80  # MiB of a model
ANSWER = "def handle(data, context):\n    return data and [{!r} for _ in data]\n"


@pytest.fixture
def archives(tmp_path):
    made = tmp_path / "store"
    made.mkdir()
    return made


@contextmanager
def registered(server, name, archive, **more):
    """A workflow on a server that others use, too."""
    given = {"url": f"{archive}.war", "workflow_name": name, **more}
    response = server.call("POST", "/workflows", params=given)
    assert response.status_code == 200, response.text
    try:
        yield
    finally:
        server.call("DELETE", f"/workflows/{name}")


def test_each_node_receives_input_as_bytes(server, store):
    code = """
        def give(data, context):
            return data and [{"pair": (1, 2)} for _ in data]

        def take(data, context):
            return data and [repr(row.get("body")) for row in data]
    """
    pack(store, "native", chain("give", "take", settings="data-format: native"), code)
    with registered(server, "native", "native"):
        assert server.predict("native").text == "{'pair': (1, 2)}"


def test_only_some_output_types_are_supported(server, store):
    code = """
        import datetime, fractions, numpy, torch

        VALUES = [
            None, 1.5, 2 + 1j, (1, (2,)), {3, 4}, fractions.Fraction(1, 3), datetime.date(2026, 1, 2),
            {"name": torch.arange(3), 5: [numpy.float64(6), torch.ones(2, dtype=torch.bfloat16)]},
        ]

        def give(data, context):
            return data and [VALUES for _ in data]

        def take(data, context):
            return data and [repr(row.get("body")) == repr(VALUES) and "the same" or "others" for row in data]
    """
    pack(store, "types", chain("give", "take", settings="data-format: native\nfuse: off"), code)
    with registered(server, "types", "types"):
        assert server.predict("types").text == "the same"


def test_workflow_scale_and_updates_through_the_api(server, store):
    pack(store, "w", chain("echo"))
    with registered(server, "w", "w"):
        changed = server.call("PUT", "/workflows/w?node=echo&min_worker=2&max_worker=3&timeout_ms=7000")
        assert changed.status_code == 200
        (node,) = server.call("GET", "/models/w__echo").json()
        assert (node["minWorkers"], node["maxWorkers"], len(node["workers"])) == (2, 3, 2)
        update = {"url": "upper.war", "workflow_name": "w", "version": "2.0", "replace": "true"}
        assert server.call("POST", "/workflows", params=update).status_code == 200
        assert server.predict("w", b"abc").text == "ABC"


def test_snapshots_of_workflows_and_their_models(tmp_path, archives):
    pack_handler(archives, "m", ANSWER.format("m"))
    pack(archives, "model", "models:\n  m: {url: m.mar}\ndag:\n  m: []\n")
    with Server(tmp_path, archives) as server:
        server.register("model.war")
        killed(server)
    (archives / "m.mar").unlink()
    with Server(tmp_path, archives) as server:
        healthy(server)
        assert server.predict("model").text == "m"


def test_workflow_versioning(server, store):
    pack(store, "w", chain("echo"))
    with registered(server, "w", "w", version="1.0"), registered(server, "w", "upper", version="2.0"):
        assert [server.predict(f"w/{version}", b"a").text for version in ("1.0", "2.0")] == ["a", "A"]


@contextmanager
def site(directory):
    """The files of a directory, on the web."""

    class Files(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            pass

    serve = partial(Files, directory=directory)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), serve) as web:
        thread = threading.Thread(target=web.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{web.server_port}"
        finally:
            web.shutdown()
            thread.join()


def test_public_model_urls_whose_file_names_are_registered_already(tmp_path, archives):
    for word in ("here", "one", "two"):
        (tmp_path / word).mkdir()
        pack_handler(tmp_path / word, "m", ANSWER.format(word))
    shutil.copy(tmp_path / "here" / "m.mar", archives)
    with (
        site(tmp_path) as web,
        Server(tmp_path, archives, allowed_urls=r"http://127\\.0\\.0\\.1:.*") as server,
    ):
        urls = {"one": f"{web}/one/m.mar", "two": f"{web}/two/m.mar", "here": "m.mar", "there": "other/m.mar"}
        for word, url in urls.items():
            pack(archives, word, f"models:\n  m: {{url: {url}}}\ndag:\n  m: []\n")
            server.register(f"{word}.war")
        answers = {word: server.predict(word).text for word in urls}
        # What is no URL is looked for in the model store, by the last part of its path.
        assert answers == {"one": "one", "two": "two", "here": "here", "there": "here"}
        killed(server)
    with Server(tmp_path, archives) as server:  # without the site
        healthy(server)
        assert {word: server.predict(word).text for word in urls} == answers
        assert list((tmp_path / "state/registry/contents/incoming").iterdir()) == []


OBEYING = FUNCTIONS + "\nhandle = obey\n"
METRICS = ("node_min_workers", "node_max_workers", "workers_wanted")
ELASTIC = "models:\n  m: {{url: m.mar, min-workers: {}, max-workers: 2}}\ndag:\n  m: []\n"


def asked_at_once(server, clients):
    """Statuses of what so many clients get, each asking five times."""

    def ask(_):
        with httpx.Client(timeout=60, trust_env=False) as client:
            url = server.url("inference", "/wfpredict/w")
            return [client.post(url, content=b"sleep 0.1").status_code for _ in range(5)]

    with ThreadPoolExecutor(clients) as executor:
        return {status for each in executor.map(ask, range(clients)) for status in each}


def workers_of(server):
    (node,) = server.call("GET", "/models/w__m").json()
    return len(node["workers"])


def test_3339_workers_scale_between_their_minimum_and_their_maximum(tmp_path, archives):
    pack_handler(archives, "m", OBEYING)
    pack(archives, "w", ELASTIC.format(1))
    with Server(tmp_path, archives, worker_idle_timeout=1) as server:
        server.register("w.war")
        assert workers_of(server) == 1
        assert asked_at_once(server, 6) == {200}
        assert workers_of(server) == 2
        while workers_of(server) > 1:
            pass
        (node,) = server.call("GET", "/models/w__m").json()
        shown = [server.metric(f"wfserve_{name}", workflow="w", node="m") for name in METRICS]
        assert [node[name] for name in ("minWorkers", "maxWorkers", "wantedWorkers")] == shown == [1, 2, 1]


def test_3362_workers_go_when_idle_and_come_back(tmp_path, archives):
    pack_handler(archives, "m", OBEYING)
    pack(archives, "w", ELASTIC.format(0))
    with Server(tmp_path, archives, worker_idle_timeout=1) as server:
        server.register("w.war")
        for _ in range(2):
            assert workers_of(server) == 0
            assert asked_at_once(server, 4) == {200}
            assert workers_of(server) == 2
            while workers_of(server):
                pass
            healthy(server)


HEAVY = f"""
import os

held = os.urandom({WEIGHT} << 20)

def handle(data, context):
    return data and [f"{{context.model_name}} {{os.getpid()}}" for _ in data]
"""


def proportional(pids):
    """MiB that processes hold together: of what several have, each its part."""
    texts = [Path(f"/proc/{pid}/smaps_rollup").read_text() for pid in pids]
    return sum(int(re.search(r"^Pss: +(\d+) kB$", text, re.MULTILINE)[1]) for text in texts) / 1024


def test_1103_a_model_is_shared_between_workflows(tmp_path, archives):
    pack_handler(archives, "m", HEAVY)
    for name in ("one", "two"):
        pack(archives, name, "models:\n  m: {url: m.mar, share: on}\ndag:\n  m: []\n")
    with Server(tmp_path, archives) as server:
        server.register("one.war")
        pid = server.predict("one").text.removeprefix("one__m ")
        before = proportional(server.descendants())
        server.register("two.war")
        assert server.predict("two").text == f"two__m {pid}"
        assert proportional(server.descendants()) - before < WEIGHT / 8
        described = [server.call("GET", f"/models/{word}__m").json()[0] for word in ("one", "two")]
        assert [each["sharedWith"] for each in described] == [["two__m"], ["one__m"]]
        assert [each["workers"][0]["pid"] for each in described] == [int(pid)] * 2
        assert server.call("GET", "/workflows/one").json()[0]["shared"] == {"m": ["two__m"]}
        server.predict("two")
        for word, count in (("one", 1), ("two", 2)):
            assert server.metric("wfserve_node_attempts_total", workflow=word, node="m") == count
        server.call("DELETE", "/workflows/one")
        assert server.predict("two").text == f"two__m {pid}"
        assert server.call("GET", "/models/two__m").json()[0]["sharedWith"] == []
        killed(server)
    with Server(tmp_path, archives) as server:
        healthy(server)
        server.register("one.war")
        assert server.predict("one").text.split()[1] == server.predict("two").text.split()[1]
