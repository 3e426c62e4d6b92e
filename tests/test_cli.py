"""Whatever is typed, the command line answers with help, a result, or one line and the right exit code."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.answers import answering
from wfserve.cli import main

COMMANDS = [
    *(
        [],
        ["serve"],
        ["check"],
        ["doctor"],
        ["register"],
        ["list"],
        ["describe"],
        ["unregister"],
        ["predict"],
        ["sample"],
        ["ping"],
    ),
    *(["archive"], ["archive", "model"], ["archive", "workflow"]),
]
SPEC = "models:\n  batch-size: 2\n  cnn: {url: cnn.mar}\ndag:\n  prepare: [cnn]\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith(("TS_", "WFSERVE_"))]:
        monkeypatch.delenv(name)


def run(*arguments, **more):
    result = CliRunner().invoke(main, arguments, **more)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def refused(*arguments, code=2, **more):
    """The one line that a command ends with."""
    result = run(*arguments, **more)
    assert (result.exit_code, result.stdout) == (code, "")
    (line,) = result.stderr.splitlines()
    assert line.startswith("wfserve: ")
    return line.removeprefix("wfserve: ")


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_every_command_has_help(command, flag):
    result = run(*command, flag)
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("Usage: ")
    assert "\\b" not in result.stdout


def test_alone_it_shows_what_there_is():
    assert run().stdout == run("--help").stdout


def test_the_version():
    assert run("--version").stdout == run("-v").stdout
    assert run("-v").stdout.startswith("wfserve, version ")


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--nonsense"], "No such option"),
        (["nonsense"], "No such command 'nonsense'"),
        (["archive"], "Missing command"),
        (["archive", "nonsense"], "No such command 'nonsense'"),
        (["check"], "Missing argument 'FILE'"),
        (["check", "a", "b"], "unexpected extra argument"),
        (["serve", "--nonsense"], "No such option"),
        (["serve", "--ts-config"], "requires an argument"),
        (["serve", "--models"], "requires an argument"),
        (["serve", "--models", "--ncs", "a.mar"], "unexpected extra argument"),
        (["doctor"], "Missing argument 'CONFIG'"),
        (["doctor", "missing"], "cannot read the configuration missing"),
        (["serve", "--try", "w"], "is not WORKFLOW=FILE"),
        (["serve", "--try", "w=missing.png"], "is not WORKFLOW=FILE"),
        (["predict", "w"], "give either FILE or --data"),
        (["sample", "w", "f", "--data", "x"], "give one of FILE, --data, --record and --remove"),
        (["sample", "w", "--record", "--remove"], "give one of FILE, --data, --record and --remove"),
        (["sample", "w", "missing"], "cannot read missing: No such file or directory"),
        (["predict", "w", "f", "--data", "x"], "give either FILE or --data"),
        (["predict", "w", "--data", "x", "--timeout", "soon"], "Invalid value for '--timeout'"),
        (["predict", "w", "--data", "x", "--timeout", "nan"], "--timeout: expected a number of seconds"),
        (["predict", "w", "missing.png"], "cannot read missing.png: No such file or directory"),
        (["predict", "w", "."], "cannot read .: Is a directory"),
        (
            ["register", "w.war", "--server", "localhost"],
            "--server: expected http(s)://host:port or unix:/path",
        ),
        (["list", "--token", "a", "--key-file", "k"], "give either --token or --key-file"),
        (["list", "--key-file", "k"], "--key-file: cannot read k: No such file or directory"),
        (
            ["list", "--server", "https://127.0.0.1:9", "--cacert", "k"],
            "--cacert: cannot use k: No such file",
        ),
        (["archive", "model", "--model-name", "m"], "Missing option '--handler'"),
        (["archive", "model", "--archive-format", "rar"], "Invalid value for '--archive-format'"),
        (["archive", "model", "--runtime", "foo"], "Invalid value for '--runtime'"),
        (["archive", "model", "--model", "m"], "--model: it could be --model-name, --model-file"),
        (["archive", "workflow", "--h=f.py"], "--h: it could be --handler, --help"),
        (["archive", "workflow", "--nothing"], "No such option"),
        (["archive", "workflow", "--", "--h"], "Missing option '--workflow-name'"),
    ],
)
def test_wrong_usage_is_one_line(arguments, why):
    assert why in refused(*arguments)


@pytest.mark.parametrize(
    ("properties", "why"),
    [
        ("inference_address=nowhere", "inference_address: expected http://host:port"),
        ("job_queue_size=many", "job_queue_size: expected a whole number"),
        ("model_store=$$NOT_SET$$", "names $$NOT_SET$$"),
    ],
)
def test_a_wrong_configuration_is_one_line(properties, why):
    Path("wrong.properties").write_text(properties)
    assert why in refused("serve", "--ts-config", "wrong.properties")


TORCHSERVES_FLAGS = [
    *("--start", "--foreground", "--ncs", "--dt", "--enable-model-api", "--log-config", "log4j2.xml"),
    *("--ppath", "plugins", "--cpp-log-config", "c", "--models", "a.mar", "b=b.mar", "--model-store", "s"),
]


@pytest.mark.parametrize(
    "flags",
    [
        TORCHSERVES_FLAGS,
        ["--models", "a.mar", "b=b.mar", *TORCHSERVES_FLAGS[:-5], "--model-store=s", "--no-config-snapshots"],
    ],
)
def test_the_flags_of_torchserve_are_those_of_serve(flags, monkeypatch):
    """With the meaning that they have there, or none, which the log tells."""
    started = []
    monkeypatch.setattr("wfserve.launch.serve_forever", lambda config, **_: started.append(config) or 0)
    assert run("serve", *flags).exit_code == 0
    (config,) = started
    assert config.disable_token_authorization
    assert config.model_store == Path.cwd() / "s"
    ignored = {"load_models", "enable_model_api", "log_config", "plugins_path", "cpp_log_config"}
    assert set(config.unused) == ignored


def test_stop_finds_no_server():
    result = run("serve", "--stop", "--state-dir", "state")
    assert (result.exit_code, result.stdout) == (0, "wfserve is not running.\n")


def test_stop_ends_the_server():
    hold = (
        "from pathlib import Path; from wfserve.state.lock import exclusive\n"
        "with exclusive(Path('state')): print(flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", hold], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as holder:
        assert holder.stdout.readline()
        result = run("serve", "--stop", "--state-dir", "state")
    assert (result.exit_code, result.stdout) == (0, f"wfserve has stopped (process {holder.pid}).\n")


def test_a_server_that_does_not_stop(monkeypatch):
    def fail(*_):
        raise TimeoutError("process 7 was told to stop and has not ended in 40 seconds")

    monkeypatch.setattr("wfserve.state.holder.stop_holder", fail)
    assert refused("serve", "--stop", code=1).startswith("process 7 was told to stop and has not ended")


@pytest.mark.parametrize(("line", "code"), [("vmargs=-Xmx4g", 0), ("job_queue_size=many", 2)])
def test_the_doctor(line, code):
    Path("c.properties").write_text(f"model_store=.\nmetrics_address=unix:{Path.cwd()}/s\n{line}\n")
    result = run("doctor", "c.properties")
    assert (result.exit_code, result.stderr) == (code, "")
    severity = "error" if code else "note"
    assert re.search(rf"^{severity} +setting +{line.partition('=')[0]} +\S", result.stdout, re.MULTILINE)
    report = json.loads(run("doctor", "--json", "c.properties").stdout)
    assert (report["config"], report["runs"]) == ("c.properties", not code)
    assert {"severity", "area", "subject", "message"} == report["findings"][0].keys()


@pytest.mark.parametrize("kind", ["missing", "directory", "binary"])
def test_a_configuration_that_cannot_be_read_is_one_line(kind):
    make(kind)
    assert "cannot read the configuration" in refused("serve", "--ts-config", kind)


def make(kind):
    if kind == "directory":
        Path(kind).mkdir()
    elif kind == "binary":
        Path(kind).write_bytes(bytes(range(256)) * 10)
    elif kind == "empty":
        Path(kind).touch()


def test_a_good_specification():
    Path("w.yaml").write_text(SPEC)
    result = run("check", "w.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "w.yaml: ok\n", "")
    assert json.loads(run("check", "--json", "w.yaml").stdout) == []


def test_every_mistake_has_its_place_and_a_suggestion():
    Path("w.yaml").write_text(SPEC.replace("batch-size", "batchsize").replace("[cnn]", "[cnn, cnn]"))
    result = run("check", "w.yaml")
    assert (result.exit_code, result.stdout) == (2, "")
    lines = result.stderr.splitlines()
    assert lines[0].startswith("w.yaml:2:3: error: ")
    assert "did you mean 'batch-size'?" in lines[0]
    assert lines[1].startswith("w.yaml:5:18: error: loop exception")
    found = json.loads(run("check", "--json", "w.yaml").stdout)
    assert [(each["line"], each["column"], each["severity"]) for each in found] == [
        (2, 3, "error"),
        (5, 18, "error"),
    ]
    assert found[0]["hint"] == "batch-size"


def test_a_warning_is_no_mistake():
    Path("w.yaml").write_text(SPEC.replace("dag:", "  other: {url: x.mar}\ndag:"))
    result = run("check", "w.yaml")
    assert result.exit_code == 0
    assert "w.yaml:4:3: warning: model 'other' is not used" in result.stderr


@pytest.mark.parametrize("kind", ["missing", "directory", "binary", "empty"])
def test_what_cannot_be_checked(kind):
    make(kind)
    result = run("check", kind)
    assert (result.exit_code, result.stdout) == (2, "")
    assert all(re.match(rf"{kind}:\d+:\d+: error: ", line) for line in result.stderr.splitlines())
    assert result.stderr


def test_an_archive_is_packed_and_checked():
    Path("w.yaml").write_text(SPEC)
    Path("functions.py").write_text("def prepare(data, context):\n    return data\n")
    Path("handler.py").write_text("def handle(data, context):\n    return data\n")
    options = ["--workflow-name", "w", "--spec-file", "w.yaml", "--handler", "functions.py"]
    assert run("archive", "workflow", *options).stdout == "w.war\n"
    assert "already exists" in refused("archive", "workflow", *options, code=1)
    assert run("archive", "workflow", *options, "--force").exit_code == 0
    assert run("check", "w.war").stdout == "w.war: ok\n"
    model = ["--model-name", "cnn", "--handler", "handler.py", "-v", "1.0"]
    assert run("archive", "model", *model).stdout == "cnn.mar\n"
    assert run("check", "cnn.mar").stdout == "cnn.mar: ok\n"


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        (["--workflow-name", "w", "--spec-file", "missing.yaml"], "No such file: missing.yaml"),
        (["--workflow-name", "w", "--spec-file", "."], "No such file: "),
        (["--workflow-name", "../w", "--spec-file", "w.yaml"], "Workflow name '../w'"),
        (["--workflow-name", "w", "--spec-file", "w.yaml", "--export-path", "w.yaml"], "is not a directory"),
        (["--workflow-name", "w", "--spec-file", "w.yaml", "--extra-files", "nothing*"], "No such file"),
    ],
)
def test_what_cannot_be_packed(arguments, why):
    Path("w.yaml").write_text(SPEC)
    assert why in refused("archive", "workflow", *arguments, code=1)


@pytest.mark.skipif(
    os.geteuid() == 0 and not Path("/usr/bin/setpriv").exists(), reason="root reads all files"
)
@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "secret/w.yaml"],
        ["serve", "--ts-config", "secret/w.yaml"],
        ["predict", "w", "secret/w.yaml"],
        ["archive", "workflow", "--workflow-name", "w", "--spec-file", "secret/w.yaml"],
        ["archive", "workflow", "--workflow-name", "w", "--spec-file", "w.yaml", "--export-path", "secret"],
    ],
)
def test_without_permission_it_is_one_line(arguments):
    """In a process of its own, since root has every permission."""
    Path("secret").mkdir()
    for name in ("w.yaml", "secret/w.yaml"):
        Path(name).write_text(SPEC)
    Path("secret").chmod(0)
    drop = ["setpriv", "--bounding-set", "-all", "--inh-caps", "-all"] if os.geteuid() == 0 else []
    result = subprocess.run(
        [*drop, sys.executable, "-c", "from wfserve.cli import main; main()", *arguments],
        capture_output=True,
        text=True,
        check=False,
    )
    Path("secret").chmod(0o700)
    assert result.returncode in (1, 2), result
    assert len(result.stderr.splitlines()) == 1, result.stderr
    assert re.search("ermission denied|not readable", result.stderr)


def test_calls_to_a_server():
    with answering(b'{"status": "registered"}') as (url, prepared):
        assert (
            run("register", "w.war", "--name", "x", "--sha256", "d", "--server", url).stdout == "registered\n"
        )
        assert json.loads(run("unregister", "a/b", "--json", "--server", url).stdout) == {
            "status": "registered"
        }
    assert [(asked.method, asked.path) for asked in prepared.asked] == [
        ("POST", "/workflows?url=w.war&workflow_name=x&sha256=d"),
        ("DELETE", "/workflows/a%2Fb"),
    ]


def test_tables():
    page = b'{"workflows": [{"workflowName": "long name", "workflowUrl": "a.war"}]}'
    with answering(page) as (url, _):
        assert run("list", "--server", url).stdout == "NAME       ARCHIVE\nlong name  a.war\n"
        assert json.loads(run("list", "--json", "--server", url).stdout) == json.loads(page)
    with answering(b'[{"workflowName": "w", "minWorkers": 1}]') as (url, _):
        assert run("describe", "w", "--server", url).stdout.splitlines()[1:] == [
            "workflowName  w",
            "minWorkers    1",
        ]
    with answering(b'[{"version": "1.0"}, {"version": "2.0"}]') as (url, prepared):
        told = run("describe", "w", "all", "--server", url).stdout.split()
        assert told == [*("SETTING", "VALUE", "version", "1.0"), *("SETTING", "VALUE", "version", "2.0")]
        assert prepared.asked[0].path == "/workflows/w/all"


def test_a_prediction_goes_out_as_it_is():
    with answering(b"\0\xff") as (url, prepared):
        Path("in").write_bytes(b"\x80\n")
        assert run("predict", "w", "in", "--server", url).stdout_bytes == b"\0\xff"
        run("predict", "w", "--data", "täxt", "--content-type", "text/plain", "--server", url)
        run("predict", "w", "-", "--server", url, input=b"\xfe")
    assert [asked.body for asked in prepared.asked] == [b"\x80\n", "täxt".encode(), b"\xfe"]
    assert prepared.asked[1].headers["content-type"] == "text/plain"


CALLS = [
    ["register", "w.war"],
    ["list"],
    ["describe", "w"],
    ["unregister", "w"],
    ["predict", "w", "--data", "x"],
]


@pytest.mark.parametrize("call", CALLS)
def test_what_the_server_refuses_is_exit_code_1(call):
    with answering((409, b'{"code": 409, "type": "x", "message": "It is taken."}')) as (url, _):
        assert refused(*call, "--server", url, code=1) == "It is taken."
    assert "cannot reach http://127.0.0.1:9: " in refused(*call, "--server", "http://127.0.0.1:9", code=1)


@pytest.mark.parametrize("call", CALLS[:-1])
def test_what_is_not_wfserve_is_exit_code_1(call):
    with answering(b"<html>hello</html>") as (url, _):
        assert "did not answer as wfserve does" in refused(*call, "--server", url, code=1)


def test_bytes_that_are_no_text(tmp_path):
    """Arguments are bytes: what is not UTF-8 is passed on as it was typed."""
    with answering(b'{"status": "gone"}') as (url, prepared):
        for arguments in (["unregister", b"\xff"], ["predict", "w", "--data", b"\xfe"]):
            subprocess.run(
                [sys.executable, "-c", "from wfserve.cli import main; main()", *arguments, "--server", url],
                check=True,
                capture_output=True,
            )
    assert [(asked.path, asked.body) for asked in prepared.asked] == [
        ("/workflows/%FF", b""),
        ("/wfpredict/w", b"\xfe"),
    ]


def test_help_loads_nothing_heavy():
    code = "import sys; from wfserve.cli import main\ntry: main(['-h'])\nfinally: print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout
    assert set(loaded.split()).isdisjoint({"torch", "httpx", "trio", "quart"})
