"""What docs/operating.md names is there: metrics, settings, lines of the log, commands and their options."""

import json
import re
import shlex
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
from click.testing import CliRunner

from tests.archives import chain, pack
from tests.servers import PATIENCE, Server
from wfserve.cli import main
from wfserve.config.keys import READ

ROOT = Path(__file__).resolve().parents[1]
TEXT = (ROOT / "docs" / "operating.md").read_text()
OF_OTHERS = {"process_open_fds", "proxy_ignore_client_abort"}  # of a node exporter, of nginx
WORDS = re.findall(r"`([^`\n]+)`", TEXT)


def section(title):
    return re.search(rf"^## {title}\n(.*?)(?=^## |\Z)", TEXT, re.MULTILINE | re.DOTALL)[1]


def rows(title):
    """The first cells of the rows of a section's tables, without the head."""
    found = re.findall(r"^\| (.+?) \|", section(title), re.MULTILINE)
    return found[1:]


@pytest.fixture(scope="module")
def shown(tmp_path_factory):
    """The names of all that `/metrics` shows of a server that has answered a request."""
    directory = tmp_path_factory.mktemp("operating")
    pack(directory, "w", chain("echo"))
    with Server(directory, directory) as server:
        for version in ("1.0", "2.0"):
            server.call("POST", f"/workflows?url=w.war&version={version}")
        server.call("PUT", "/workflows/w/traffic?shadow=2.0")
        assert server.predict("w", b"x").status_code == 200
        while "wfserve_shadow_requests_total{" not in (
            text := server.call("GET", "/metrics", api="metrics").text
        ):
            pass
    families = re.findall(r"^# TYPE (\S+)", text, re.MULTILINE)
    return {*families, *re.findall(r"^(\w+)", text, re.MULTILINE)}


def test_metrics_are_shown(shown):
    named = set(re.findall(r"\b(?:wfserve_\w+|Disk\w+)\b", " ".join(WORDS)))
    assert len(named) > 12
    assert named <= shown


def test_settings_are_read():
    named = {word for word in WORDS if re.fullmatch(r"[a-z]+(_[a-z]+)+", word)}
    assert len(named) > 12
    assert {word for word in named - OF_OTHERS if not word.startswith("wfserve_")} <= READ.keys()


@cache
def sources():
    return "\n".join(path.read_text() for path in (ROOT / "wfserve").rglob("*.py"))


@pytest.mark.parametrize("row", rows("Lines of the log that want somebody"))
def test_lines_are_logged(row):
    line = re.match(r"`(.+?)`", row)[1]
    assert all(part.strip() in sources() for part in line.split("…")), line


def blocks():
    """The document's lines for a shell, block by block."""
    return re.findall(r"^```sh\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)


def commands():
    """Every command of ours among them, as it is typed."""
    lines = [line for block in blocks() for line in block.replace("\\\n", " ").splitlines()]
    return [line.partition("  #")[0] for line in lines if line.startswith("wfserve ")]


@pytest.mark.parametrize("command", commands())
def test_commands_and_their_options_exist(command):
    _, *words = shlex.split(command)
    result = CliRunner().invoke(main, [*words, "--help"])
    assert (result.exit_code, result.output.startswith("Usage")) == (0, True)
    options = {word for word in words if word.startswith("--")}
    assert options <= set(re.findall(r"--[\w-]+", result.output))


def test_links_lead_somewhere():
    heads = {re.sub(r"[^\w -]", "", head).strip().lower().replace(" ", "-") for head in _heads(TEXT)}
    for target in re.findall(r"\]\(([^)]+)\)", TEXT):
        file, _, anchor = target.partition("#")
        assert not file or (ROOT / "docs" / file).is_file()
        assert file or anchor in heads, target


def _heads(text):
    return re.findall(r"^#+ (.+)$", text, re.MULTILINE)


def test_limits_say_what_holds():
    """A few of them, by the code."""
    from wfserve.config import Config
    from wfserve.http.server import ServerSettings
    from wfserve.registry.shadow import MOST
    from wfserve.registry.warmup import MOST_BYTES
    from wfserve.state.store import MOST_CHANGES

    limits, server = section("Limits, and how they fail").replace(" ", ""), ServerSettings()
    config = Config()
    for said in (
        f"|`job_queue_size`,attemptsthatwaitforonenode|{config.job_queue_size}|",
        f"|`max_request_size`|{config.max_request_size}|",
        f"|`max_response_size`|{config.max_response_size}|",
        f"|headofarequest|{server.max_head_bytes >> 10}KiB,{server.max_headers}headers|",
        f"|{server.header_timeout:.0f}s;{server.body_timeout:.0f}s|408|",
        f"|connections|{server.max_connections}|503|",
        f"|asample|{MOST_BYTES >> 20}MiB,",
        f"|copiesforashadow|{MOST}underway|",
        f"|thelogofchanges|{MOST_CHANGES}|",
        f"|{config.unregister_timeout:.0f}s,{config.stop_timeout:.0f}s|",
    ):
        assert said in limits, said


def test_shell_blocks_are_shell():
    for block in blocks():
        subprocess.run(["sh", "-n"], input=block, text=True, check=True)


def run(block, directory):
    """Run a block as it stands where this server is; it ends with the first command that fails."""
    path = f"{Path(sys.executable).parent}:/usr/bin:/bin"
    return subprocess.run(
        ["sh", "-ec", block],
        cwd=directory,
        env={"PATH": path},
        capture_output=True,
        text=True,
        check=False,
        timeout=PATIENCE,
    )


def block_with(text):
    (found,) = (block for block in blocks() if text in block)
    return found


def test_an_upgrade_a_backup_and_its_return_go_as_they_are_written(tmp_path):
    for name in ("mine", "mine-2"):
        pack(tmp_path, name, chain("echo"))
    (tmp_path / "request.json").write_text("[1]")
    backup = block_with("snapshot export").replace("/var/lib/wfserve/state", str(tmp_path / "state"))
    before, after = re.split(r"^systemctl stop wfserve$", backup, flags=re.MULTILINE)
    with Server(tmp_path, tmp_path, disable_token_authorization="false") as server:
        token = json.loads((tmp_path / "key_file.json").read_bytes())["management"]["key"]
        server.client.headers["authorization"] = f"Bearer {token}"
        registered = {"url": "mine.war", "workflow_name": "mine", "version": "1.0"}
        assert server.call("POST", "/workflows", params=registered).status_code == 200
        upgrade = re.sub(
            r"^(wfserve .*?)(  #|$)",
            rf"\1 --key-file key_file.json --server {server.url('management', '')}\2",
            block_with("set-default").replace("127.0.0.1:8081", f"127.0.0.1:{server.ports['management']}"),
            flags=re.MULTILINE,
        ).replace("curl ", f'curl -fsS -H "Authorization: Bearer {token}" ')
        done = run(upgrade, tmp_path)
        assert (done.returncode, "unregister" in done.stdout) == (0, True), done.stderr
        told = block_with("/ping").replace("8080", str(server.ports["inference"]))
        told = told.replace("8081", str(server.ports["management"])).replace(
            "8082", str(server.ports["metrics"])
        )
        listing = f"wfserve list --server {server.url('management', '')}"
        said = run(told.replace("wfserve list", listing), tmp_path)
        assert (said.returncode, said.stdout.count("Healthy")) == (0, 3), said.stderr
        saved = run(before, tmp_path)
        assert saved.returncode == 0, saved.stderr
    returned = run(after.replace("systemctl start wfserve", ""), tmp_path)
    assert (returned.returncode, "1 workflows, 1 versions" in returned.stdout) == (0, True), returned.stderr
