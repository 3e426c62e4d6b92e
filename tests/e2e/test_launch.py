"""What keeps a server from starting is one clear line; flags and files are found where users expect."""

import json
import subprocess
import sys

import pytest

from tests.archives import pack, pack_handler
from tests.servers import HEAD, Server, free_ports


def run(*arguments, cwd=None, env=None):
    return subprocess.run(
        [str(HEAD / arguments[0]), *map(str, arguments[1:])],
        cwd=cwd,
        env=env,
        text=True,
        capture_output=True,
        timeout=60,
        check=False,
    )


def refusal(result, code=2):
    """The one line of an error; no traceback."""
    assert result.returncode == code, result.stderr
    assert "Traceback" not in result.stderr
    return [line for line in result.stderr.splitlines() if line.startswith(("wfserve: ", "Error: "))][-1]


def test_a_second_server_is_refused(tmp_path, store):
    with Server(tmp_path, store) as first:
        second = tmp_path / "second.properties"
        ports = free_ports(3)
        second.write_text(
            f"inference_address=http://127.0.0.1:{ports[0]}\n"
            f"management_address=http://127.0.0.1:{ports[1]}\n"
            f"metrics_address=http://127.0.0.1:{ports[2]}\n"
            f"state_dir={tmp_path / 'state'}\n"
        )
        line = refusal(run("wfserve", "serve", "--ts-config", second, cwd=tmp_path))
        assert line.startswith(
            f"wfserve: process {first.process.pid} already serves with {tmp_path / 'state'}"
        )


def test_files_of_the_working_directory_are_no_modules(tmp_path, store):
    """Whatever name they have: `nt` is looked for by the standard library on every system."""
    for name in ("nt", "selectors", "yaml"):
        (tmp_path / f"{name}.py").write_text("open('imported', 'a').close()\nraise KeyError(__name__)\n")
    pack_handler(
        store,
        "m",
        """
        import os, subprocess, sys

        LOOK = "import sys; print(sys.flags.safe_path, '' in sys.path)"

        def handle(data, context):
            if data is None:
                return None
            return [subprocess.check_output([sys.executable, "-c", LOOK], text=True) for _ in data]
        """,
    )
    pack(store, "w", "models:\n  m: {url: m.mar}\ndag:\n  m: []\n")
    with Server(tmp_path, store) as server:
        assert server.register("w.war").status_code == 200
        assert server.predict("w", b"x").text == "False True\n"
    assert not (tmp_path / "imported").exists()


def test_a_port_that_is_taken(tmp_path, store):
    with Server(tmp_path, store) as first:
        other = tmp_path / "other.properties"
        text = first.config.read_text().replace(str(tmp_path / "state"), str(tmp_path / "elsewhere"))
        other.write_text(text)
        line = refusal(run("wfserve", "serve", "--ts-config", other, cwd=tmp_path))
        port = first.ports["inference"]
        assert line == f"wfserve: cannot listen on http://127.0.0.1:{port}: Address already in use"


def test_two_hypercorn_workers_are_refused_in_one_line(tmp_path, store):
    server = Server(tmp_path, store, "hypercorn")
    result = run(*hypercorn_twice(server), cwd=tmp_path, env={"TS_CONFIG_FILE": str(server.config)})
    assert "Traceback" not in result.stderr
    assert result.stderr.count("one server a state directory (hypercorn: run it with one worker") == 1


def hypercorn_twice(server):
    _, *rest = server.command()
    return "hypercorn", "-w", "2", *rest


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "inference_address=nonsense\n",
            "inference_address: expected http://host:port, https://host:port or unix:/path, not 'nonsense'",
        ),
        ("job_queue_size=many\n", "job_queue_size: expected a whole number, not 'many'"),
        ("decode_input_request=1\n", "decode_input_request: expected true or false, not '1'"),
        (
            "model_store=$$NOT_SET$$\n",
            "the configuration names $$NOT_SET$$, and no such variable is set",
        ),
    ],
)
def test_a_bad_configuration(tmp_path, text, message):
    (tmp_path / "config.properties").write_text(text)
    assert refusal(run("wfserve", "serve", cwd=tmp_path)) == f"wfserve: {message}"


def test_a_configuration_that_is_not_there(tmp_path):
    line = refusal(run("wfserve", "serve", "--ts-config", tmp_path / "none", cwd=tmp_path))
    assert line == f"wfserve: cannot read the configuration {tmp_path / 'none'}: No such file or directory"


def test_an_unknown_flag(tmp_path):
    assert "--bogus" in refusal(run("wfserve", "serve", "--bogus", cwd=tmp_path))


def test_the_command_line_against_a_server(server, store, tmp_path):
    management = server.url("management", "")
    inference = server.url("inference", "")

    def ask(*arguments, code=0):
        result = run("wfserve", *arguments)
        assert result.returncode == code, result.stderr
        return result.stdout if code == 0 else result.stderr

    registered = ask("register", "upper.war", "--name", "by-hand", "--server", management)
    assert registered == "Workflow by-hand has been registered and scaled successfully.\n"
    assert "by-hand" in ask("list", "--server", management)
    listed = json.loads(ask("list", "--json", "--server", management))["workflows"]
    assert {"workflowName": "by-hand", "workflowUrl": "upper.war"} in listed
    assert "{echo=[upper]}" in ask("describe", "by-hand", "--server", management)
    assert ask("predict", "by-hand", "--data", "abc", "--server", inference) == "ABC"
    (tmp_path / "body").write_bytes(b"file")
    assert ask("predict", "by-hand", tmp_path / "body", "--server", inference) == "FILE"
    assert ask("unregister", "by-hand", "--server", management) == 'Workflow "by-hand" unregistered\n'
    assert (
        ask("describe", "by-hand", "--server", management, code=1) == "wfserve: Workflow not found: by-hand\n"
    )


def test_no_server_to_ask():
    (port,) = free_ports(1)
    line = refusal(run("wfserve", "list", "--server", f"http://127.0.0.1:{port}"), code=1)
    assert line.startswith(f"wfserve: cannot reach http://127.0.0.1:{port}")


def test_help_is_light():
    """The command line answers without what it does not need yet."""
    code = (
        "import sys; import wfserve.cli; "
        "sys.exit([m for m in ('torch', 'trio', 'quart', 'httpx') if m in sys.modules] or 0)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
