"""What a server is packaged with fits this repository: every file is there, every setting is known."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from wfserve.config import Config
from wfserve.config.keys import READ

ROOT = Path(__file__).resolve().parents[1]
UNIT = ROOT / "packaging" / "wfserve.service"
DOCKERFILE = ROOT / "Dockerfile"


def settings_of(unit):
    """The assignments of a unit, one key may have several."""
    return re.findall(r"^(\w+)=(.*)$", unit.read_text(), re.MULTILINE)


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd-analyze is not there")
def test_systemd_understands_the_unit(tmp_path):
    """But for the command, which need not be installed here."""
    text, count = re.subn(r"^ExecStart=\S+", f"ExecStart={sys.executable}", UNIT.read_text(), flags=re.M)
    assert count == 1
    copy = tmp_path / UNIT.name
    copy.write_text(text)
    verified = subprocess.run(
        ["systemd-analyze", "verify", copy], capture_output=True, text=True, check=False, timeout=60
    )
    assert (verified.returncode, verified.stderr) == (0, "")


def test_the_unit_leaves_time_to_stop():
    given = dict(settings_of(UNIT))
    assert int(given["TimeoutStopSec"]) > Config().stop_timeout
    assert given["Type"] == "notify"


def variables():
    """Every variable of ours that the packaging sets."""
    named = dict(settings_of(UNIT)), DOCKERFILE.read_text()
    return set(re.findall(r"\bWFSERVE_([A-Z_]+)=", " ".join([*named[0].values(), named[1]])))


def test_variables_are_settings():
    assert variables()
    assert {name.lower() for name in variables()} <= READ.keys()


def instructions():
    """The Dockerfile's, each with its text in one line."""
    text = re.sub(r"^\s*#.*\n", "", DOCKERFILE.read_text(), flags=re.M)
    joined = re.sub(r"\\\n", " ", text)
    return [tuple(line.split(None, 1)) for line in joined.splitlines() if line.strip()]


def ignored():
    return [line for line in (ROOT / ".dockerignore").read_text().splitlines() if line[:1] not in ("", "#")]


def copied():
    """What of this repository is copied, by where it goes."""
    copies = [text.split() for what, text in instructions() if what == "COPY" and "--from" not in text]
    return [(source, copy[-1]) for copy in copies for source in copy[:-1]]


def test_what_is_copied_is_there_and_not_ignored():
    for source, target in copied():
        kept = target == source if (ROOT / source).is_dir() else (ROOT / source).is_file()
        assert kept, source  # of a directory, its contents are copied
    first, *others = ignored()
    assert first == "*"  # what is not named does not reach the build
    assert {each.removeprefix("!") for each in others if each.startswith("!")} == {s for s, _ in copied()}


def test_the_wheel_finds_what_its_build_names():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    named = [project["project"]["readme"], *project["project"]["license-files"]]
    named += project["tool"]["scikit-build"]["wheel"]["packages"]
    named += re.findall(r"(\w+)/\w+\.cpp", (ROOT / "CMakeLists.txt").read_text())
    assert {*named, "pyproject.toml", "CMakeLists.txt"} == {source for source, _ in copied()}


def test_every_argument_is_used_and_every_stage_known():
    known = [text.split("=")[0] for what, text in instructions() if what == "ARG"]
    rest = " ".join(text for what, text in instructions() if what != "ARG")
    assert known
    for name in known:
        assert re.search(rf"\$\{{{name}\b|\${name}\b", rest), name
    stages = re.findall(r"\bAS (\w+)", " ".join(text for what, text in instructions() if what == "FROM"))
    assert set(re.findall(r"--from=(\w+)", rest)) <= set(stages)


def test_it_runs_as_nobody_special():
    users = [text for what, text in instructions() if what == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
