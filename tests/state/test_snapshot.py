"""A registry moves to another machine in one file, and comes out as it went in or not at all."""

import os
import shutil
import zipfile

import orjson
import pytest

from tests.dying import deaths
from tests.state import acts
from tests.states import AUTHOR, opened, register
from wfserve.archive.extract import ExtractLimits
from wfserve.errors import BadRequestError, ConflictError, TooLargeError
from wfserve.state import snapshot
from wfserve.state.files import StateError
from wfserve.state.records import LiveSettings, Sample, Traffic
from wfserve.state.snapshot import (
    Difference,
    SnapshotError,
    diff,
    export_snapshot,
    import_snapshot,
    read_snapshot,
)


@pytest.fixture
def state(tmp_path):
    """A state with two workflows."""
    with opened(tmp_path / "state") as state:
        register(state, tmp_path / "scratch", "w", "1.0")
        register(state, tmp_path / "scratch", "w", "2.0")
        register(state, tmp_path / "scratch", "v", "1.0")
        state.set_settings(AUTHOR, "w", "1.0", {"model": LiveSettings(batch_size=8)})
        state.set_traffic(AUTHOR, "w", Traffic({"1.0": 1, "2.0": 1}))
        with state.contents.transfer() as transfer:
            state.set_sample(AUTHOR, "v", Sample(transfer.write(b"a body"), {"content-type": "text/plain"}))
        yield state


@pytest.fixture
def other(tmp_path):
    """A state of another machine, empty."""
    with opened(tmp_path / "other") as state:
        yield state


@pytest.fixture
def file(tmp_path, state):
    """A snapshot of `state`."""
    path = tmp_path / "registry.zip"
    export_snapshot(tmp_path / "state", path)
    return path


def test_a_registry_moves(state, other, file):
    assert import_snapshot(other, file, AUTHOR) == state.workflows
    assert other.workflows == state.workflows
    for workflow in other.workflows.values():
        for content in workflow.contents():
            other.contents.verify(content)
    (change,) = other.history()
    assert (change.what, change.arguments["workflows"]) == ("import", ["v", "w"])
    assert other.collect() == []


def test_equal_registries_have_equal_snapshots(state, other, file, tmp_path):
    """Whatever order they were made in; the log is not part of it."""
    import_snapshot(other, file, AUTHOR)
    again = tmp_path / "again.zip"
    export_snapshot(tmp_path / "other", again)
    assert again.read_bytes() == file.read_bytes()
    assert read_snapshot(file) == state.workflows
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["again.zip", "registry.zip"]


def test_it_is_an_ordinary_zip_of_what_is_needed(state, file):
    with zipfile.ZipFile(file) as archive:
        assert archive.testzip() is None
        names = archive.namelist()
        needed = {content.digest for each in state.workflows.values() for content in each.contents()}
        assert names == ["wfserve.json", *(f"contents/{digest}" for digest in sorted(needed))]


def test_a_second_import_changes_nothing(other, file):
    import_snapshot(other, file, AUTHOR)
    before = dict(other.workflows)
    import_snapshot(other, file, AUTHOR)
    assert other.workflows == before


def test_another_workflow_of_a_name_is_not_touched_unless_asked(state, other, file, tmp_path):
    register(other, tmp_path / "scratch", "w", "3.0")
    register(other, tmp_path / "scratch", "x", "1.0")
    before = other.workflows
    with pytest.raises(ConflictError, match=r"other workflows of these names: w\."):
        import_snapshot(other, file, AUTHOR)
    assert other.workflows is before
    import_snapshot(other, file, AUTHOR, replace=True)
    assert other.workflows == state.workflows


def test_differences(state, tmp_path):
    before = state.workflows
    assert diff(before, before) == []
    state.set_default(AUTHOR, "w", "2.0")
    state.remove(AUTHOR, "v")
    state.set_settings(AUTHOR, "w", "1.0", {"model": LiveSettings(timeout_ms=7)})
    state.remove_version(AUTHOR, "w", "1.0")
    register(state, tmp_path / "scratch", "w", "1.0")
    found = diff(before, state.workflows)
    assert found[0].path == ("v",)
    assert (found[0].before["default"], found[0].after) == ("1.0", None)
    assert found[1:] == [
        Difference(("w", "default"), "1.0", "2.0"),
        Difference(
            ("w", "traffic"), {"weights": {"1.0": 1, "2.0": 1}, "sticky_header": None, "shadow": None}, None
        ),
        Difference(("w", "versions", "1.0", "settings", "model"), {"batch_size": 8}, None),
    ]


def rewritten(file, change):
    """Pack the snapshot again after `change` of its entries by name."""
    with zipfile.ZipFile(file) as archive:
        entries = {name: archive.read(name) for name in archive.namelist()}
    change(entries)
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in entries.items():
            archive.writestr(name, content)


def with_document(change):
    def run(entries):
        document = orjson.loads(entries["wfserve.json"])
        change(document)
        entries["wfserve.json"] = orjson.dumps(document)

    return run


def lacking(entries):
    del entries[max(entries, key=lambda name: name.startswith("contents/"))]


def damaged(entries):
    name = next(name for name in entries if name.startswith("contents/"))
    entries[name] = entries[name].swapcase()


def traversing(document):
    document["workflows"][0]["versions"][0]["archive"]["digest"] = "../../lock"


BROKEN = {
    "no document": (lambda entries: entries.pop("wfserve.json"), "has no wfserve.json"),
    "no JSON": (lambda entries: entries.update({"wfserve.json": b"{"}), "not JSON"),
    "a list": (lambda entries: entries.update({"wfserve.json": b"[]"}), "no list of workflows"),
    "nested": (lambda entries: entries.update({"wfserve.json": b"[" * 100_000}), "not JSON"),
    "a newer format": (with_document(lambda found: found.update(format=2)), "format is 2"),
    "no workflow": (with_document(lambda found: found["workflows"].append({})), "not a workflow"),
    "a workflow twice": (
        with_document(lambda found: found["workflows"].append(found["workflows"][0])),
        "twice",
    ),
    "a digest that leads away": (with_document(traversing), "is not a SHA-256"),
    "an archive is missing": (lacking, "lacks the archive"),
    "an archive is damaged": (damaged, "is damaged"),
    "an entry that leads away": (lambda entries: entries.update({"../x": b""}), "Zip Slip"),
}


@pytest.mark.parametrize(("change", "told"), BROKEN.values(), ids=BROKEN)
def test_broken_snapshots_change_nothing(other, file, change, told):
    rewritten(file, change)
    with pytest.raises(BadRequestError, match=told):
        import_snapshot(other, file, AUTHOR)
    assert not other.workflows
    assert not other.history()
    other.collect()
    assert other.contents.is_empty()
    assert list(other.contents.incoming.iterdir()) == []


def test_a_damaged_archive_does_not_take_the_place_of_a_sound_one(state, file):
    rewritten(file, damaged)
    with pytest.raises(SnapshotError):
        import_snapshot(state, file, AUTHOR)
    for workflow in state.workflows.values():
        for content in workflow.contents():
            state.contents.verify(content)


def test_what_is_no_zip_or_too_large(other, file):
    with pytest.raises(TooLargeError):
        import_snapshot(other, file, AUTHOR, limits=ExtractLimits(max_bytes=100))
    with pytest.raises(TooLargeError):
        read_snapshot(file, ExtractLimits(max_files=2))
    file.write_bytes(b"no snapshot")
    with pytest.raises(BadRequestError, match="neither a zip nor"):
        import_snapshot(other, file, AUTHOR)
    file.unlink()
    with pytest.raises(SnapshotError, match="There is no snapshot"):
        read_snapshot(file)


@pytest.mark.parametrize("damage", ["cut off", "other bytes", "gone"])
def test_a_damaged_state_is_not_exported(state, tmp_path, file, damage):
    before = file.read_bytes()
    path = state.contents.path(state.workflow("w").version("2.0").archive)
    if damage == "cut off":
        os.truncate(path, 1)
    elif damage == "other bytes":
        path.chmod(0o600)
        path.write_bytes(path.read_bytes().swapcase())
    else:
        path.unlink()
    with pytest.raises(StateError):
        export_snapshot(tmp_path / "state", file)
    assert file.read_bytes() == before
    assert not list(file.parent.glob(".snapshot-*"))


def test_a_file_that_cannot_be_written(state, tmp_path):
    with pytest.raises(StateError, match=r"cannot write the snapshot .*No such file"):
        export_snapshot(tmp_path / "state", tmp_path / "absent" / "registry.zip")


@pytest.mark.parametrize("there", ["nothing", "an empty directory", "a file"])
def test_a_directory_without_a_registry_takes_no_good_snapshots_place(tmp_path, file, there):
    before, mistyped = file.read_bytes(), tmp_path / "mistyped"
    if there == "an empty directory":
        mistyped.mkdir()
    elif there == "a file":
        mistyped.touch()
    with pytest.raises(StateError, match=r"no registry in .*mistyped"):
        export_snapshot(mistyped, file)
    assert file.read_bytes() == before


def test_what_is_removed_during_an_export_is_not_in_it(state, tmp_path, monkeypatch):
    """Its archives are gone, so the registry is looked at again."""
    add = snapshot._add

    def remove_first(*arguments):
        monkeypatch.setattr(snapshot, "_add", add)
        state.remove(AUTHOR, "w")
        state.collect()
        add(*arguments)

    monkeypatch.setattr(snapshot, "_add", remove_first)
    assert list(export_snapshot(tmp_path / "state", tmp_path / "registry.zip")) == ["v"]
    assert list(read_snapshot(tmp_path / "registry.zip")) == ["v"]


def test_a_document_that_is_too_large(other, file, monkeypatch):
    monkeypatch.setattr(snapshot, "LARGEST_DOCUMENT", 100)
    with pytest.raises(SnapshotError, match="too large"):
        import_snapshot(other, file, AUTHOR)


def test_a_death_at_any_step_of_an_import_leaves_the_old_or_the_new(state, file, memory):
    workflows = dict(state.workflows)
    seen = []
    for _ in deaths("wfserve/state/snapshot.py", acts.import_into, memory / "other", file):
        with opened(memory / "other") as other:
            seen.append(dict(other.workflows))
            assert other.contents.is_empty() or other.workflows
        shutil.rmtree(memory / "other")
    assert seen == [{}] * seen.count({}) + [workflows] * seen.count(workflows)
    assert {} in seen
    assert workflows in seen
