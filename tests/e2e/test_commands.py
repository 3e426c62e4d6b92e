"""The commands and the line of `--try` reach servers that are guarded, encrypted, or on Unix sockets."""

import hashlib
import json
import subprocess

import pytest

from tests.servers import HEAD, Server, free_ports

UPPER = "upper"


@pytest.fixture(scope="module")
def guarded(tmp_path_factory, store):
    """A server that wants tokens, with its inference API on TLS and management on a Unix socket."""
    directory = tmp_path_factory.mktemp("guarded")
    (port,) = free_ports(1)
    settings = {
        "disable_token_authorization": "false",
        "inference_address": f"https://127.0.0.1:{port}",
        "management_address": f"unix:{directory}/management",
    }
    with Server(directory, store, **settings) as running:
        running.secure = settings["inference_address"]
        running.near = settings["management_address"]
        yield running


def run(server, *arguments, code=0, **variables):
    """Run a command where the server's key file is."""
    result = subprocess.run(
        [str(HEAD / "wfserve"), *arguments],
        cwd=server.directory,
        env={"PATH": "/usr/bin:/bin", **variables},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert result.returncode == code, result.stderr
    return result.stdout if code == 0 else result.stderr


def test_commands_reach_a_guarded_server(guarded, store):
    managing = ("--server", guarded.near, "--key-file", "key_file.json")
    digest = hashlib.sha256((store / "upper.war").read_bytes()).hexdigest()
    wrong = run(guarded, "register", "upper.war", "--sha256", "0" * 64, *managing, code=1)
    assert wrong == "wfserve: Failed to download archive from: upper.war\n"
    run(guarded, "register", "upper.war", "--sha256", digest, *managing)
    assert "upper.war" in run(guarded, "list", *managing)
    assert "workflowDag" in run(guarded, "describe", UPPER, *managing)
    inferring = ("--server", guarded.secure, "--data", "abc", "--insecure")
    assert run(guarded, "predict", UPPER, *inferring, "--key-file", "key_file.json") == "ABC"
    key = json.loads((guarded.directory / "key_file.json").read_bytes())["inference"]["key"]
    assert run(guarded, "predict", UPPER, *inferring, WFSERVE_TOKEN=key) == "ABC"
    assert run(guarded, "predict", UPPER, *inferring, "--token", key, WFSERVE_TOKEN="other") == "ABC"
    run(guarded, "register", "upper.war", "--version", "2.0", "--default", *managing)
    assert json.loads(run(guarded, "describe", UPPER, "--json", *managing))[0]["version"] == "2.0"
    versions = json.loads(run(guarded, "describe", UPPER, "all", "--json", *managing))
    assert [each["version"] for each in versions] == ["1.0", "2.0"]
    assert 'to "1.0"' in run(guarded, "set-default", UPPER, "1.0", *managing)
    assert 'back to version "2.0"' in run(guarded, "rollback", UPPER, *managing)
    assert 'version "1.0" unregistered' in run(guarded, "unregister", UPPER, "1.0", *managing)
    assert "no earlier default" in run(guarded, "rollback", UPPER, *managing, code=1)
    assert "unregistered" in run(guarded, "unregister", UPPER, *managing)
    head, *rows = run(guarded, "history", UPPER, *managing).splitlines()
    assert head.split() == ["AT", "WHO", "ADDRESS", "WHAT", "WORKFLOW", "OUTCOME", "ARGUMENTS"]
    assert [row.split()[1:4] for row in rows[:3]] == [
        ["management", "unix", "unregister"],
        ["management", "unix", "rollback"],
        ["management", "unix", "unregister"],
    ]
    assert "no earlier default" in rows[1]


def test_what_is_not_shown_or_not_believed_is_refused(guarded):
    assert "Token Authorization failed" in run(guarded, "list", "--server", guarded.near, code=1)
    call = ("predict", UPPER, "--data", "x", "--server", guarded.secure)
    assert "certificate verify failed" in run(guarded, *call, code=1)
    assert "Token Authorization failed" in run(guarded, *call, "--insecure", code=1)
    assert "Token Authorization failed" in run(guarded, *call, "--insecure", "--token", "wrong", code=1)


@pytest.mark.parametrize("settings", ["plain", "tokens", "tls", "unix"])
def test_the_example_line_is_printed_once_the_workflow_is_ready(tmp_path, store, settings):
    (port,) = free_ports(1)
    given = {
        "plain": {},
        "tokens": {"disable_token_authorization": "false"},
        "tls": {"disable_token_authorization": "false", "inference_address": f"https://127.0.0.1:{port}"},
        "unix": {"disable_token_authorization": "false", "inference_address": f"unix:{tmp_path}/a socket"},
    }[settings]
    body = tmp_path / "a body"
    body.write_bytes(b"abc")
    server = Server(tmp_path, store, load_workflows="a b=upper.war", **given)
    command = server.command()
    server.command = lambda: [*command, "--try", f"a b={body}"]
    with server:
        line = server.wait_for("^curl ").rstrip("\n")
        answer = subprocess.run(line, shell=True, capture_output=True, check=True, timeout=30)
        assert answer.stdout == b"ABC"
        keys = tmp_path / "key_file.json"
        if settings != "plain":
            assert json.loads(keys.read_bytes())["inference"]["key"] not in server.log
