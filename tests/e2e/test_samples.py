"""What new versions of a workflow have to answer: given, recorded, told, forgotten, and kept."""

import json
import subprocess

import pytest

from tests.archives import chain, pack
from tests.servers import HEAD, PATIENCE, Server

PICKY = """
    def say(data, context):
        if data is None:
            return None
        body, kind = bytes(data[0].get("body")), context.get_request_header(0, "content-type")
        if body.startswith(b"only") and body != b"only " + WORD:
            raise ValueError("not for me")
        return [b" ".join([WORD, body, str(kind).encode()])]
"""


@pytest.fixture(scope="module")
def picky(store):
    for word in ("one", "two"):
        code = PICKY.replace("WORD", repr(word.encode()))
        pack(store, f"picky-{word}", chain("say", settings="retry-attempts: 0"), code)


@pytest.fixture
def register(server, picky):
    """Register versions of the workflow `picky`, which is gone in the end."""

    def register(word, **parameters):
        given = {"url": f"picky-{word}.war", "workflow_name": "picky", **parameters}
        return server.call("POST", "/workflows", params=given)

    yield register
    server.call("DELETE", "/workflows/picky")


def keep(server, body, **headers):
    return server.call("PUT", "/workflows/picky/sample", content=body, headers=headers)


def told(server):
    return server.call("GET", "/workflows/picky/sample").json()


def test_a_version_that_fails_the_sample_is_not_registered(server, register):
    register("one", version="1.0")
    assert told(server) == {"workflowName": "picky", "sample": None, "recording": False}
    kept = keep(server, b"only one", **{"Content-Type": "image/png"})
    assert kept.json() == {"status": 'Sample of workflow "picky" updated'}
    shown = told(server)["sample"]
    assert (shown["headers"]["content-type"], shown["bytes"], len(shown["sha256"])) == ("image/png", 8, 64)
    refused = register("two", version="2.0", default="true")
    assert (refused.status_code, refused.json()["message"]) == (
        500,
        "Version 2.0 of workflow picky has failed its warm-up with the sample of picky: Error executing say",
    )
    assert [each["version"] for each in server.call("GET", "/workflows/picky/all").json()] == ["1.0"]
    assert register("one", version="3.0", default="true").status_code == 200
    assert server.call("DELETE", "/workflows/picky/sample").status_code == 200
    assert register("two", version="2.0", default="true").status_code == 200


def test_a_version_that_was_there_before_has_to_answer_it_to_become_the_default(server, register):
    register("one", version="1.0")
    register("two", version="2.0")
    keep(server, b"only one")
    refused = server.call("PUT", "/workflows/picky/2.0/set-default")
    assert (refused.status_code, "failed its warm-up" in refused.json()["message"]) == (500, True)
    assert server.predict("picky", b"x").text.startswith("one")
    keep(server, b"anything")
    assert server.call("PUT", "/workflows/picky/2.0/set-default").status_code == 200
    assert server.predict("picky", b"x").text.startswith("two")


def test_the_next_request_is_recorded_when_somebody_asked_for_it(server, register):
    register("one", version="1.0")
    register("two", version="2.0")
    server.predict("picky", b"before")
    asked = server.call("PUT", "/workflows/picky/sample?record=true")
    assert asked.json() == {"status": 'The next request that workflow "picky" answers will be its sample'}
    assert told(server)["recording"] is True
    assert server.predict("picky", b"only two").status_code == 500  # is no sample
    assert server.predict("picky/2.0", b"only two").status_code == 200  # of another version
    assert told(server)["recording"] is True
    headers = {"content-type": "image/png", "authorization": "Bearer secret", "accept": "*/*"}
    assert server.predict("picky", b"only one", headers=headers).text == "one only one image/png"
    while told(server)["recording"]:
        pass
    server.predict("picky", b"behind")
    shown = told(server)["sample"]
    assert shown["headers"] == {"content-type": "image/png", "accept": "*/*"}
    assert shown["bytes"] == len(b"only one")
    changes = server.call("GET", "/history?workflow=picky&limit=2").json()["changes"]
    assert [(each["what"], each["who"]) for each in changes] == [
        ("sample", "recorder"),
        ("sample", "anybody"),
    ]


@pytest.mark.parametrize(
    ("query", "body", "status"),
    [
        ("", b"", 400),
        ("?record=true", b"x", 400),
        ("?record=false", b"", 400),
        ("?record=maybe", b"x", 400),
        ("?recrod=true", b"", 400),
        ("", b"only two", 400),
        ("", b"x" * 7_000_000, 413),
    ],
)
def test_what_can_be_no_sample_changes_nothing(server, register, query, body, status):
    register("one", version="1.0")
    keep(server, b"before")
    before = told(server)
    refused = server.call("PUT", f"/workflows/picky/sample{query}", content=body)
    assert (refused.status_code, refused.json()["code"]) == (status, status)
    assert told(server) == before


def test_headers_that_cannot_be_kept(server, register):
    register("one", version="1.0")
    for value in ("a" * 1025, "\xe4"):
        refused = keep(server, b"x", **{"Content-Type": value.encode("latin-1")})
        assert refused.status_code == 400
    assert told(server)["sample"] is None


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "nobody/sample"),
        ("PUT", "nobody/sample?record=true"),
        ("DELETE", "nobody/sample"),
        ("DELETE", "picky/sample"),
    ],
)
def test_there_is_no_such_workflow_or_sample(server, register, method, path):
    register("one", version="1.0")
    assert server.call(method, f"/workflows/{path}").status_code == 404


def test_a_sample_survives_a_kill_and_is_in_snapshots(tmp_path, store, picky):
    def wfserve(*arguments):
        command = [HEAD / "wfserve", *arguments, "--state-dir", tmp_path / "state"]
        return subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)

    with Server(tmp_path, store, load_workflows="picky=picky-one.war") as server:
        while server.call("GET", "/ping", api="inference").status_code != 200:
            pass
        assert keep(server, b"only one").status_code == 200
        assert server.call("PUT", "/workflows/picky/sample?record=true").status_code == 200
        before = told(server)
        server.process.kill()
        server.process.wait(PATIENCE)
    assert wfserve("snapshot", "export", tmp_path / "file").returncode == 0
    assert wfserve("snapshot", "import", tmp_path / "file", "--replace").returncode == 0
    assert wfserve("snapshot", "diff", tmp_path / "file").stdout == ""
    with Server(tmp_path, store) as server:
        assert told(server) == before
        while server.call("GET", "/ping", api="inference").status_code != 200:
            pass
        failing = {"url": "picky-two.war", "workflow_name": "picky", "version": "2.0"}
        assert server.call("POST", "/workflows", params=failing).status_code == 500
        assert server.predict("picky", b"recorded").status_code == 200
        while told(server)["recording"]:
            pass
        assert told(server)["sample"]["bytes"] == len(b"recorded")


def test_the_command(server, register, tmp_path):
    register("one", version="1.0")
    (tmp_path / "body").write_bytes(b"only one")

    def sample(*arguments, code=0):
        where = ("--server", server.url("management", ""))
        command = [HEAD / "wfserve", "sample", "picky", *arguments, *where]
        result = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
        assert result.returncode == code, result.stderr
        return result.stdout or result.stderr

    assert sample(tmp_path / "body", "--content-type", "image/png").startswith("Sample of workflow")
    assert "image/png" in sample()
    assert "does not answer it" in sample("--data", "only two", code=1)
    assert sample("--record").startswith("The next request")
    assert json.loads(sample("--json"))["recording"] is True
    assert sample("--remove") == 'Sample of workflow "picky" removed\n'
    assert "give one of" in sample("--remove", "--record", code=2)
