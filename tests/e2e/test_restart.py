"""What a server has acknowledged is there when it is started again, however it ended.

The registry is opened by the same code under every kind of server; each tells it by itself what to load.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import threading
import time
from typing import NamedTuple

import httpx
import pytest

from tests.archives import chain, pack, pack_handler
from tests.e2e.test_versions import speaking
from tests.servers import PATIENCE, Server

KINDS = pytest.mark.parametrize("kind", ["serve", "hypercorn"])


@pytest.fixture
def words(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    for word in ("one", "two"):
        pack(store, word, chain("say"), speaking(word))
    return store


def healthy(server):
    """Return once `/ping` says that everything has loaded."""
    deadline = time.monotonic() + PATIENCE
    while server.call("GET", "/ping", api="inference").status_code != 200:
        assert time.monotonic() < deadline, server.log
        time.sleep(0.01)


def register(server, word, **more):
    response = server.call("POST", "/workflows", params={"url": f"{word}.war", "workflow_name": "w", **more})
    assert response.status_code == 200, response.text


def killed(server):
    """End a server as the system does, and wait until its workers have noticed."""
    group = os.getpgid(server.process.pid)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)
    server.process.wait()


def described(server):
    return server.call("GET", "/workflows/w/all").json()


@KINDS
def test_everything_is_back_after_a_kill(tmp_path, words, kind):
    with Server(tmp_path, words, kind) as server:
        register(server, "one", version="1.0", startup_timeout="60")
        register(server, "two", version="2.0")
        assert server.call("PUT", "/workflows/w/2.0/set-default").status_code == 200
        assert server.call("PUT", "/workflows/w/1.0?timeout_ms=4321").status_code == 200
        assert server.call("PUT", "/models/w__say/1.0?min_worker=2&synchronous=true").status_code == 200
        assert server.call("PUT", "/workflows/w/traffic?weights=2.0:1&shadow=1.0").status_code == 200
        before = described(server)
        killed(server)
    (words / "one.war").unlink()  # what was registered does not depend on where it came from
    with Server(tmp_path, words, kind) as server:
        healthy(server)
        assert described(server) == before
        assert [server.predict(path).text for path in ("w", "w/1.0")] == ["two", "one"]
        node = server.call("GET", "/models/w__say/1.0").json()[0]
        assert (node["minWorkers"], node["startupTimeout"], node["loadedAtStartup"]) == (2, 60, True)
        history = server.call("GET", "/history?workflow=w").json()["changes"]
        assert [each["what"] for each in history] == [
            *("traffic", "settings", "settings", "set-default", "register", "register")
        ]
        assert server.call("DELETE", "/workflows/w").status_code == 200
        assert server.stop() == 0
    with Server(tmp_path, words, kind) as server:
        healthy(server)
        assert server.call("GET", "/workflows").json() == {"workflows": []}


@KINDS
def test_what_is_named_at_start_is_registered_once(tmp_path, words, kind):
    for _ in range(2):
        with Server(tmp_path, words, kind, load_workflows="w=one.war,two.war") as server:
            healthy(server)
            assert [server.predict(name).text for name in ("w", "two")] == ["one", "two"]
            assert len(server.call("GET", "/history").json()["changes"]) == 2
            killed(server)


def test_what_is_in_the_store_at_start_is_served_and_else_what_was_kept(tmp_path, words):
    def serving(expected, changes):
        with Server(tmp_path, words, load_workflows="one.war") as server:
            healthy(server)
            assert server.predict("one").text == expected
            assert server.call("GET", "/workflows/one").json()[0].get("changed") == changed
            assert len(server.call("GET", "/history").json()["changes"]) == changes
            if changed is None:
                assert server.call("PUT", "/workflows/one?timeout_ms=4000").status_code == 200

    changed = None
    serving("one", 1)
    changed = {"say": {"timeout": 4000}}
    pack(words, "one", chain("say"), speaking("other"))
    serving("other", 3)
    pack(words, "one", chain("say"), "def say(data, context):\n    raise KeyError('no such word')\n")
    serving("other", 3)
    (words / "one.war").unlink()
    serving("other", 3)


def test_a_script_that_registers_after_each_start_goes_on_working(tmp_path, words):
    """It knows no versions, and what it registers may be another archive by now."""
    for word in ("one", "other"):
        pack(words, "one", chain("say"), speaking(word))
        with Server(tmp_path, words) as server:
            register(server, "one")  # while it may be loading still
            assert server.predict("w").text == word
            again = server.call("POST", "/workflows", params={"url": "one.war", "workflow_name": "w"})
            assert again.status_code == 409
            other = server.call("POST", "/workflows", params={"url": "two.war", "workflow_name": "w"})
            assert other.status_code == 409
            killed(server)


def test_starting_empty(tmp_path, words):
    with Server(tmp_path, words) as server:
        register(server, "one")
    with Server(tmp_path, words, start_empty="true") as server:
        healthy(server)
        assert server.call("GET", "/workflows").json() == {"workflows": []}
        assert [each["what"] for each in server.call("GET", "/history").json()["changes"]] == [
            *("clear", "register")
        ]
        assert not [path for path in (tmp_path / "state/registry/contents").iterdir() if path.is_file()]


def test_a_version_whose_archive_is_gone_is_told_and_can_be_removed(tmp_path, words):
    with Server(tmp_path, words) as server:
        register(server, "one", version="1.0")
        register(server, "two", version="2.0")
    contents = tmp_path / "state/registry/contents"
    with sqlite3.connect(tmp_path / "state/registry/state.sqlite") as database:
        ((document,),) = database.execute("SELECT document FROM workflow").fetchall()
    database.close()
    lost = json.loads(document)["versions"][0]["archive"]["digest"]
    (contents / lost).unlink()
    with Server(tmp_path, words) as server:
        server.wait_for(f"The archive {lost} is missing")
        deadline = time.monotonic() + PATIENCE
        while server.predict("w/2.0").status_code != 200:
            assert time.monotonic() < deadline
        assert server.call("GET", "/ping", api="inference").status_code == 500
        assert server.predict("w").status_code == server.predict("w/1.0").status_code == 503
        assert server.call("GET", "/workflows/w").json()[0]["status"] == "NOT LOADED"
        assert server.call("PUT", "/workflows/w/2.0/set-default").status_code == 200
        assert server.call("DELETE", "/workflows/w/1.0").status_code == 200
        assert server.call("GET", "/ping", api="inference").status_code == 200
        assert server.predict("w").text == "two"


def test_a_damaged_registry_is_told_and_put_aside(tmp_path, words):
    with Server(tmp_path, words) as server:
        register(server, "one")
    (tmp_path / "state/registry/state.sqlite").write_bytes(b"rubbish" * 1000)
    with Server(tmp_path, words) as server:
        server.wait_for("the registry was put aside and is empty now")
        register(server, "one")
    with Server(tmp_path, words) as server:
        server.wait_for("a damaged registry lies aside")
        healthy(server)
        assert server.predict("w").text == "one"


class State(NamedTuple):
    """What is registered as `w`."""

    default: str
    words: dict[str, str]  # by version
    settings: dict[str, dict[str, int]]  # that were changed, by version
    previous: str | None = None

    def seen(self):
        """Return what descriptions tell of it."""
        return self.default, self.words, {version: each for version, each in self.settings.items() if each}


class Changes:
    """A run of changes; it knows what the last acknowledged one left, and what the one under way might."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.state = State("1.0", {"1.0": "one"}, {"1.0": {}})
        self.number = 1
        self.under_way = None

    def next(self):
        """Return a call, and the state after it."""
        default, words, settings, previous = self.state
        others = sorted(words.keys() - {default})
        kinds = ["register", "replace", "settings", "scale"]
        kinds += ["set-default", "delete"] if others else []
        kinds += ["rollback"] if previous is not None else []
        kind = "delete" if len(words) > 3 else self.random.choice(kinds)
        if kind in ("register", "replace"):
            return self._further(replace=kind == "replace")
        if kind in ("settings", "scale"):
            return self._settings(scale=kind == "scale")
        if kind == "rollback":
            return ("PUT", "/workflows/w/rollback"), State(previous, words, settings, default)
        version = self.random.choice(others)
        if kind == "set-default":
            return ("PUT", f"/workflows/w/{version}/set-default"), State(version, words, settings, default)
        left = default, _without(words, version), _without(settings, version)
        return ("DELETE", f"/workflows/w/{version}"), State(*left, None if version == previous else previous)

    def _further(self, *, replace):
        default, words, settings, previous = self.state
        self.number += 1
        version, word = f"{self.number}.0", self.random.choice(["one", "two"])
        path = f"/workflows?url={word}.war&workflow_name=w&version={version}"
        more, of_more = {**words, version: word}, {**settings, version: {}}
        if not replace:
            return ("POST", path), State(default, more, of_more, previous)
        left = _without(more, default), _without(of_more, default)
        return ("POST", f"{path}&replace=true"), State(version, *left)

    def _settings(self, *, scale):
        default, words, settings, previous = self.state
        if scale:
            value = self.random.randint(1, 2)
            query, changed = f"min_worker={value}&max_worker=2", {"minWorkers": value, "maxWorkers": 2}
        else:
            value = self.random.randint(1000, 9000)
            query, changed = f"timeout_ms={value}", {"timeout": value}
        after = {**settings, default: {**settings[default], **changed}}
        return ("PUT", f"/workflows/w?node=say&{query}"), State(default, words, after, previous)

    def run(self, server, client):
        """Make changes until the server is killed."""
        while True:
            (method, path), after = self.next()
            self.under_way = after
            try:
                response = client.request(method, server.url("management", path))
            except httpx.HTTPError:
                return
            assert response.status_code == 200, (method, path, response.text)
            self.state, self.under_way = after, None

    def settle(self, seen):
        """Go on from what a server says there is, which has to be one of the two."""
        possible = [state for state in (self.state, self.under_way) if state is not None]
        self.state = next((state for state in possible if state.seen() == seen), None)
        assert self.state is not None, (seen, possible)
        self.under_way = None


def _without(mapping, key):
    return {each: value for each, value in mapping.items() if each != key}


def found(server):
    """The state that a server says it has, as `State.seen` has it."""
    listed = described(server)
    default = next(each["version"] for each in listed if each["defaultVersion"])
    words = {each["version"]: each["workflowUrl"].removesuffix(".war") for each in listed}
    return default, words, {each["version"]: each["changed"]["say"] for each in listed if "changed" in each}


class Clients(threading.Thread):
    """Sixteen clients that ask for `w` until the server is killed; they keep what is no word."""

    def __init__(self, server):
        super().__init__()
        self.server, self.wrong, self.right = server, [], 0
        self.killed = threading.Event()

    def run(self):
        threads = [threading.Thread(target=self.ask) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def ask(self):
        with httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            while True:
                try:
                    response = client.post(self.server.url("inference", "/wfpredict/w"), content=b"x")
                except httpx.HTTPError as error:
                    if not self.killed.is_set():
                        self.wrong.append(repr(error))
                    return
                if response.text in ("one", "two"):
                    self.right += 1
                else:
                    self.wrong.append(response.text)


def kill_and_compare(tmp_path, words, kills, seconds):
    changes, answers = Changes(seed=kills), 0
    with Server(tmp_path, words) as server:
        register(server, "one", version="1.0")
    for _ in range(kills):
        with Server(tmp_path, words) as server, httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            healthy(server)
            changes.settle(found(server))
            for version, word in changes.state.words.items():
                assert server.predict(f"w/{version}").text == word
            assert server.predict("w").text == changes.state.words[changes.state.default]
            runner, clients = threading.Thread(target=changes.run, args=(server, client)), Clients(server)
            for thread in (runner, clients):
                thread.start()
            time.sleep(changes.random.uniform(0, seconds))  # any moment will do
            clients.killed.set()
            killed(server)
            for thread in (runner, clients):
                thread.join()
            assert clients.wrong == []
            answers += clients.right
    assert answers > kills


def test_killed_at_random_moments_of_a_run_of_changes(tmp_path, words):
    kill_and_compare(tmp_path, words, kills=4, seconds=0.6)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_killed_at_many_random_moments_of_a_run_of_changes(tmp_path, words):
    kill_and_compare(tmp_path, words, kills=int(os.environ.get("WFSERVE_TEST_KILLS", "20")), seconds=1.0)


@KINDS
def test_a_snapshot_of_torchserve_is_served_and_read_again_at_each_start(tmp_path, words, kind):
    pack_handler(words, "alone", "def handle(data, context):\n    return data and ['hello' for _ in data]\n")
    state = {"defaultVersion": True, "marName": "alone.mar", "minWorkers": 1, "maxWorkers": 1}
    state |= {"batchSize": 1, "maxBatchDelay": 100, "responseTimeout": 120, "runtimeType": "python"}
    snapshot = json.dumps({"name": "one.cfg", "models": {"alone": {"1.0": state}}}, indent=2)
    escaped = snapshot.replace("\n", "\\n").replace(":", "\\:")  # as Java writes it
    for _ in range(2):
        with Server(tmp_path, words, kind, load_models="all", model_snapshot=escaped) as server:
            healthy(server)
            for path in ("/predictions/alone", "/predictions/alone/1.0", "/wfpredict/alone"):
                assert server.call("POST", path, api="inference").text == "hello"
            assert server.call("GET", "/models/alone").json()[0]["modelUrl"] == "alone.mar"
            assert len(server.call("GET", "/history").json()["changes"]) == 1
            killed(server)
    with Server(tmp_path, words, kind, model_snapshot=escaped) as server:
        healthy(server)
        assert server.call("DELETE", "/workflows/alone").status_code == 200
        assert server.call("POST", "/predictions/alone", api="inference").status_code == 404


def test_a_snapshot_that_is_none_is_refused_in_one_line(tmp_path, words):
    (tmp_path / "one.cfg").write_text("model_snapshot={\n")
    server = Server(tmp_path, words)
    command = [*server.command(), "--snapshot", "one.cfg"]
    refused = subprocess.run(
        command, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=PATIENCE
    )
    assert refused.returncode == 2
    last = refused.stderr.splitlines()[-1]
    assert last.startswith("wfserve: ")
    assert "one.cfg: model_snapshot is not a snapshot: not JSON" in last
