"""What a server has acknowledged is there when it is started again, however it ended."""

import contextlib
import json
import os
import random
import signal
import sqlite3
import threading
import time

import httpx
import pytest

from tests.archives import chain, pack
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


@KINDS
def test_a_script_that_registers_after_each_start_goes_on_working(tmp_path, words, kind):
    """It knows no versions, and what it registers may be another archive by now."""
    for word in ("one", "other"):
        pack(words, "one", chain("say"), speaking(word))
        with Server(tmp_path, words, kind) as server:
            register(server, "one")  # while it may be loading still
            assert server.predict("w").text == word
            again = server.call("POST", "/workflows", params={"url": "one.war", "workflow_name": "w"})
            assert again.status_code == 409
            other = server.call("POST", "/workflows", params={"url": "two.war", "workflow_name": "w"})
            assert other.status_code == 409
            killed(server)


@KINDS
def test_starting_empty(tmp_path, words, kind):
    with Server(tmp_path, words, kind) as server:
        register(server, "one")
    with Server(tmp_path, words, kind, start_empty="true") as server:
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


class Changes:
    """A run of changes; it knows what the last acknowledged one left, and what the one under way might."""

    def __init__(self, seed):
        self.random = random.Random(seed)
        self.versions = {"1.0": "one"}
        self.default = "1.0"
        self.timeouts = {}
        self.number = 1
        self.under_way = None

    def state(self):
        return self.default, dict(self.versions), dict(self.timeouts)

    def next(self):
        """Return a call, and the state after it."""
        others = sorted(self.versions.keys() - {self.default})
        kind = self.random.choice(["register", "replace", "set-default", "settings", "delete"])
        versions, timeouts = dict(self.versions), dict(self.timeouts)
        if (kind in ("set-default", "delete") and not others) or len(versions) > 3:
            kind = "delete" if others else "replace"
        if kind in ("register", "replace"):
            self.number += 1
            version, word = f"{self.number}.0", self.random.choice(["one", "two"])
            call = "POST", f"/workflows?url={word}.war&workflow_name=w&version={version}"
            if kind == "register":
                return call, (self.default, {**versions, version: word}, timeouts)
            del versions[self.default]
            timeouts.pop(self.default, None)
            return (call[0], f"{call[1]}&replace=true"), (version, {**versions, version: word}, timeouts)
        if kind == "set-default":
            version = self.random.choice(others)
            return ("PUT", f"/workflows/w/{version}/set-default"), (version, versions, timeouts)
        if kind == "settings":
            value = self.random.randint(1000, 9000)
            call = "PUT", f"/workflows/w/{self.default}?timeout_ms={value}"
            return call, (self.default, versions, {**timeouts, self.default: value})
        version = self.random.choice(others)
        del versions[version]
        timeouts.pop(version, None)
        return ("DELETE", f"/workflows/w/{version}"), (self.default, versions, timeouts)

    def run(self, server, client):
        """Make changes until the server is killed."""
        while True:
            (method, path), after = self.next()
            self.under_way = after
            try:
                response = client.request(method, server.url("management", path))
            except httpx.HTTPError:
                return
            assert response.status_code == 200, response.text
            self.default, self.versions, self.timeouts = after
            self.under_way = None


def found(server):
    """The state that a server says it has."""
    listed = described(server)
    default = next(each["version"] for each in listed if each["defaultVersion"])
    versions = {each["version"]: each["workflowUrl"].removesuffix(".war") for each in listed}
    changed = {each["version"]: each["changed"]["say"]["timeout"] for each in listed if "changed" in each}
    return default, versions, changed


def kill_and_compare(tmp_path, words, kills, seconds):
    changes = Changes(seed=kills)
    with Server(tmp_path, words) as server:
        register(server, "one", version="1.0")
    for number in range(kills):
        with Server(tmp_path, words) as server, httpx.Client(timeout=PATIENCE, trust_env=False) as client:
            healthy(server)
            state = found(server)
            assert state in (changes.state(), changes.under_way), (number, changes.state(), changes.under_way)
            changes.default, changes.versions, changes.timeouts = state
            changes.under_way = None
            for version, word in changes.versions.items():
                assert server.predict(f"w/{version}").text == word
            assert server.predict("w").text == changes.versions[changes.default]
            runner = threading.Thread(target=changes.run, args=(server, client))
            runner.start()
            time.sleep(changes.random.uniform(0, seconds))  # any moment will do
            killed(server)
            runner.join()


def test_killed_at_random_moments_of_a_run_of_changes(tmp_path, words):
    kill_and_compare(tmp_path, words, kills=4, seconds=0.6)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_at_many_random_moments_of_a_run_of_changes(tmp_path, words):
    kill_and_compare(tmp_path, words, kills=int(os.environ.get("WFSERVE_TEST_KILLS", "20")), seconds=1.0)
