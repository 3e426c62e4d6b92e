"""A registry moves as one file, is compared, and stays what it was if the file is none."""

import json

import pytest
from click.testing import CliRunner

from tests.states import AUTHOR, opened, register
from wfserve.cli import main
from wfserve.state.lock import exclusive
from wfserve.state.records import LiveSettings


def snapshot(*arguments):
    return CliRunner().invoke(main, ["snapshot", *map(str, arguments)])


@pytest.fixture
def here(tmp_path):
    directory = tmp_path / "here"
    with opened(directory) as state:
        register(state, tmp_path / "scratch", "w", "1.0")
        register(state, tmp_path / "scratch", "w", "2.0", default=True)
    return directory


def test_from_one_directory_to_another(tmp_path, here):
    file, there = tmp_path / "all.zip", tmp_path / "there"
    exported = snapshot("export", file, "--state-dir", here)
    assert (exported.exit_code, exported.output) == (0, f"1 workflows, 2 versions in {file}\n")
    imported = snapshot("import", file, "--state-dir", there)
    assert (imported.exit_code, imported.output) == (0, f"1 workflows, 2 versions from {file}\n")
    with opened(here) as before, opened(there) as after:
        assert after.workflows == before.workflows
        assert after.contents.verify(after.workflow("w").version("1.0").archive).exists()
    same = snapshot("diff", file, "--state-dir", there)
    assert (same.exit_code, same.output) == (0, "")


def test_one_of_a_running_server(tmp_path, here):
    file = tmp_path / "all.zip"
    with exclusive(here), opened(here) as state:
        assert snapshot("export", file, "--state-dir", here).exit_code == 0
        state.set_settings(AUTHOR, "w", "1.0", {"n": LiveSettings(timeout_ms=5)})
        found = json.loads(snapshot("diff", file, "--state-dir", here, "--json").output)
        path = ["w", "versions", "1.0", "settings", "n"]
        assert found == [{"path": path, "before": None, "after": {"timeout_ms": 5}}]
        refused = snapshot("import", file, "--state-dir", here)
        assert refused.exit_code == 2
        assert "already serves with" in refused.output


def test_differences_of_two_files(tmp_path, here):
    snapshot("export", tmp_path / "before", "--state-dir", here)
    with opened(here) as state:
        state.set_default(AUTHOR, "w", "1.0")
    snapshot("export", tmp_path / "after", "--state-dir", here)
    found = snapshot("diff", tmp_path / "before", tmp_path / "after")
    assert found.exit_code == 1
    assert [line.split() for line in found.output.splitlines()] == [
        ["WHERE", "BEFORE", "AFTER"],
        ["w", "default", '"2.0"', '"1.0"'],
        ["w", "previous", '"1.0"', '"2.0"'],
    ]


def test_what_is_no_snapshot_changes_nothing(tmp_path, here):
    (tmp_path / "rubbish").write_bytes(b"rubbish")
    for file in ("rubbish", "missing"):
        for command in ("import", "diff"):
            refused = snapshot(command, tmp_path / file, "--state-dir", here)
            assert refused.exit_code == 2
            assert refused.output.count("\n") == 1
    with opened(here) as state:
        assert state.workflow("w").default == "2.0"


def test_an_archive_that_is_missing_is_told(tmp_path, here):
    with opened(here) as state:
        lost = state.workflow("w").version("1.0").archive.digest
    (here / "registry/contents" / lost).unlink()
    refused = snapshot("export", tmp_path / "all.zip", "--state-dir", here)
    assert refused.exit_code == 2
    assert not (tmp_path / "all.zip").exists()


def test_nothing_is_a_snapshot_too_but_not_of_nowhere(tmp_path):
    file, nowhere, empty = tmp_path / "none.zip", tmp_path / "nowhere", tmp_path / "empty"
    with opened(empty):
        assert snapshot("export", file, "--state-dir", empty).exit_code == 0
    assert snapshot("diff", file, "--state-dir", empty).exit_code == 0
    for command in ("export", "diff"):
        assert snapshot(command, file, "--state-dir", nowhere).exit_code == 2
    assert not nowhere.exists()
