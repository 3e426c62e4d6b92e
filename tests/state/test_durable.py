"""A state is what the last acknowledged change left; a damaged one is told and put aside, never lost."""

import os
import re
import shutil
import sqlite3
import tempfile
import threading
from pathlib import Path

import pytest

from tests.dying import deaths, dies
from tests.state import acts
from tests.state.acts import sampled
from tests.states import AUTHOR, opened, register
from wfserve.errors import ConfigError, ConflictError, NotFoundError, WorkflowNotFoundError
from wfserve.state import store as store_module
from wfserve.state.durable import Problem, open_state
from wfserve.state.records import LiveSettings, Traffic


@pytest.fixture
def scratch(tmp_path):
    return tmp_path / "scratch"


@pytest.fixture
def directory(tmp_path):
    return tmp_path / "state"


@pytest.fixture
def registered(directory, scratch):
    """A state directory with two versions of `w`."""
    with opened(directory) as state:
        register(state, scratch, "w", "1.0")
        register(state, scratch, "w", "2.0")
    return directory


def database(directory):
    return directory / "registry" / "state.sqlite"


def names(path):
    return sorted(each.name for each in path.iterdir())


def test_everything_is_back(directory, scratch):
    with opened(directory) as state:
        one = register(state, scratch, "w", "1.0", startup_timeout=5.0)
        two = register(state, scratch, "w", "2.0")
        register(state, scratch, "v", "1.0")
        state.set_default(AUTHOR, "w", "2.0")
        state.set_traffic(AUTHOR, "w", Traffic({"1.0": 1, "2.0": 9}, "x-user"))
        changed = state.set_settings(AUTHOR, "w", "1.0", {"model": LiveSettings(max_workers=3)})
        state.remove(AUTHOR, "v")
    with opened(directory) as state:
        assert state.workflows == {"w": changed}
        workflow = state.workflow("w")
        assert (workflow.default, workflow.previous) == ("2.0", "1.0")
        assert workflow.traffic == Traffic({"1.0": 1, "2.0": 9}, "x-user")
        assert workflow.versions == (one.with_settings({"model": LiveSettings(max_workers=3)}), two)
        assert state.contents.verify(one.archive).read_text() == "the archive of w 1.0"
        assert [change.what for change in state.history()] == [
            *("unregister", "settings", "traffic", "set-default", "register", "register", "register"),
        ]
        settings = state.history()[1]
        assert settings.arguments == {"version": "1.0", "nodes": {"model": {"max_workers": 3}}}
        assert (settings.workflow, settings.author) == ("w", AUTHOR)


def test_a_refused_change_has_changed_nothing_and_is_logged_by_whoever_knows(registered, scratch):
    with opened(registered) as state:
        before, history = state.workflows, state.history()
        with pytest.raises(ConflictError):
            register(state, scratch, "w", "1.0")
        with pytest.raises(WorkflowNotFoundError, match="Workflow not found: v"):
            state.set_default(AUTHOR, "v", "1.0")
        assert state.workflows is before
        assert state.history() == history
        state.record_refusal(AUTHOR, "set-default", "v", {"version": "1.0"}, "Workflow not found: v")
        assert state.history(1)[0].outcome == "Workflow not found: v"
        assert state.workflows == before


def test_what_no_version_needs_is_collected(registered):
    with opened(registered) as state:
        two = state.workflow("w").version("2.0").archive.digest
        assert state.collect() == []
        state.remove_version(AUTHOR, "w", "2.0")
        assert state.collect() == [two]  # and not the model, which 1.0 needs as well
        state.remove(AUTHOR, "w")
    with opened(registered):
        assert names(registered / "registry" / "contents") == ["incoming"]


def test_a_sample_is_kept_until_it_is_removed(registered):
    with opened(registered) as state:
        sampled(state, recorded=False)
        kept = state.workflow("w").sample
        assert state.collect() == []
        with pytest.raises(ConflictError, match="does not wait for a request to record"):
            sampled(state, recorded=True)
    with opened(registered) as state:
        assert state.workflow("w").sample == kept
        assert state.contents.verify(kept.body).read_bytes() == b"a body"
        state.await_sample(AUTHOR, "w")
        assert (state.workflow("w").sample, state.workflow("w").recording) == (kept, True)
        sampled(state, recorded=True)
        assert not state.workflow("w").recording
        state.remove_sample(AUTHOR, "w")
        assert state.collect() == [kept.body.digest]
        with pytest.raises(NotFoundError, match="Workflow w has no sample"):
            state.remove_sample(AUTHOR, "w")
        assert [change.what for change in state.history(4)] == [
            *("remove sample", "sample", "sample", "sample")
        ]


def test_a_sample_that_is_missing_is_told(registered):
    with opened(registered) as state:
        sampled(state, recorded=False)
        state.contents.path(state.workflow("w").sample.body).unlink()
    state, (problem,) = open_state(registered)
    state.close()
    assert problem.message.startswith("the sample of workflow w is lost: The archive ")
    assert (problem.workflow, problem.version) == ("w", None)


def test_threads_do_not_lose_each_others_changes(registered):
    with opened(registered) as state:
        nodes = [f"n{number}" for number in range(12)]

        def change(node):
            state.set_settings(AUTHOR, "w", "1.0", {node: LiveSettings(timeout_ms=1)})

        threads = [threading.Thread(target=change, args=(node,)) for node in nodes]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert sorted(state.workflow("w").version("1.0").settings) == sorted(nodes)


def test_a_change_waits_while_another_decides(registered):
    with opened(registered) as state:
        thread = threading.Thread(target=state.set_default, args=(AUTHOR, "w", "2.0"))

        def decide():
            thread.start()
            thread.join(0.05)  # in vain
            assert state.workflow("w").default == "1.0"
            return {"v": None}

        state.change(AUTHOR, "unregister", "v", {}, decide)
        thread.join()
        assert [change.what for change in state.history(2)] == ["set-default", "unregister"]


@pytest.mark.parametrize("change", acts.CHANGES)
def test_a_death_at_any_step_leaves_the_old_or_the_new(registered, memory, change):
    """Of the state and of its log; the archives that either needs are there."""
    seen = []
    with opened(registered) as state:
        register(state, registered / "scratch", "v", "1.0")
        state.set_default(AUTHOR, "w", "2.0")
        state.set_default(AUTHOR, "w", "1.0")
        state.await_sample(AUTHOR, "w")
    (memory / "scratch").mkdir()
    work = memory / "work"
    shutil.copytree(registered, work)
    for _ in deaths("wfserve/state", acts.change, work, change, memory / "scratch"):
        with opened(work) as state:
            seen.append((dict(state.workflows), len(state.history())))
            for workflow in state.workflows.values():
                for content in workflow.contents():
                    state.contents.verify(content)
        shutil.rmtree(work)
        shutil.copytree(registered, work)
    old, new = seen[0], seen[-1]
    assert old != new
    assert old[1] + 1 == new[1]
    assert seen == [old] * seen.count(old) + [new] * seen.count(new)


def test_a_death_at_any_instruction_of_the_database(registered, memory):
    """SQLite's own steps, of which each may be the last."""
    work = shutil.copytree(registered, memory / "work")
    with opened(work) as state:
        old = state.workflow("w")
    new = old.with_default("2.0")
    step, found = 1, []
    while new not in found:
        dies(acts.die_in_database, step, work)
        with opened(work) as state:
            found.append(state.workflow("w"))
            assert len(state.history()) == 2 + (found[-1] == new)
        step += 1
    assert found == [old] * (len(found) - 1) + [new]
    assert len(found) > 20


def test_a_death_at_any_step_of_opening_a_new_one(memory):
    directory = memory / "state"
    for _ in deaths("wfserve/state", acts.open_new, directory):
        with opened(directory) as state:
            assert not state.workflows
        shutil.rmtree(directory)


def test_a_death_at_any_step_of_putting_aside_is_told_by_the_next(registered, memory):
    database(registered).write_bytes(b"damage" * 1000)
    work = memory / "work"
    shutil.copytree(registered, work)
    for _ in deaths("wfserve/state", acts.open_new, work):
        state, problems = open_state(work)
        state.close()
        assert problems
        (aside,) = work.glob("registry.damaged-*")
        assert (aside / "state.sqlite").read_bytes() == b"damage" * 1000
        shutil.rmtree(work)
        shutil.copytree(registered, work)


def unlink(path):
    path.unlink()


def truncate(path):
    os.truncate(path, 0)


def corrupt(path):
    path.write_bytes(b"damage" * 1000)


def from_the_future(path):
    with sqlite3.connect(path) as found:
        found.execute(f"PRAGMA user_version = {len(store_module.MIGRATIONS) + 1}")
    found.close()


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (unlink, "is gone, though .* has its archives"),
        (truncate, "is gone, though .* has its archives"),
        (corrupt, "file is not a database"),
        (from_the_future, "was written by a newer wfserve"),
    ],
)
def test_a_damaged_database_is_put_aside_with_its_archives(registered, damage, told):
    damage(database(registered))
    state, problems = open_state(registered)
    with pytest.raises(WorkflowNotFoundError):
        state.workflow("w")
    state.close()
    (aside,) = registered.glob("registry.damaged-*")
    assert len(names(aside / "contents")) == 4  # three archives, and `incoming`
    first, second = problems
    assert first.message.endswith("; the registry was put aside and is empty now")
    assert second == Problem(f"a damaged registry lies aside: {aside}")
    assert re.search(told, first.message)
    state, problems = open_state(registered)
    state.close()
    assert problems == [second]


def test_a_sound_state_is_back_when_it_is_renamed_back(registered):
    from_the_future(database(registered))
    open_state(registered)[0].close()
    (aside,) = registered.glob("registry.damaged-*")
    shutil.rmtree(registered / "registry")
    aside.rename(registered / "registry")
    with sqlite3.connect(database(registered)) as found:
        found.execute(f"PRAGMA user_version = {len(store_module.MIGRATIONS)}")
    found.close()
    with opened(registered) as state:
        assert state.workflow("w").default == "1.0"


def test_archives_that_are_missing_are_told_and_the_state_stays(registered, scratch):
    with opened(registered) as state:
        before = state.workflows
        lost = state.workflow("w").version("2.0").archive
        state.contents.path(lost).unlink()
    for _ in range(2):
        state, (problem,) = open_state(registered)
        assert (problem.workflow, problem.version) == ("w", "2.0")
        assert f"cannot be served: The archive {lost.digest} is missing" in problem.message
        assert state.workflows == before
        state.close()
    state, _ = open_state(registered)
    (scratch / "again.war").write_text("the archive of w 2.0")
    with state.contents.transfer() as transfer:
        assert transfer.put(scratch / "again.war") == lost
    state.close()
    with opened(registered) as state:
        assert state.workflows == before


def test_a_shared_archive_that_is_cut_off_is_told_for_each_version(registered):
    with opened(registered) as state:
        model = state.workflow("w").version("1.0").models["model"]
        os.truncate(state.contents.path(model), 1)
    state, problems = open_state(registered)
    state.close()
    assert [problem.version for problem in problems] == ["1.0", "2.0"]
    assert "1 bytes instead of" in problems[0].message


@pytest.mark.parametrize("obstacle", ["a file", "a file for the registry", "a directory for the database"])
def test_a_directory_that_cannot_be_used(directory, obstacle):
    if obstacle == "a file":
        directory.touch()
    elif obstacle == "a file for the registry":
        directory.mkdir()
        (directory / "registry").touch()
    else:
        database(directory).mkdir(parents=True)
    with pytest.raises(ConfigError, match="cannot use"):
        open_state(directory)
    assert not list(directory.parent.glob("**/*.damaged-*"))


@pytest.fixture
def public(registered):
    """The state of `registered` where every user can find it."""
    with tempfile.TemporaryDirectory() as name:
        os.chmod(name, 0o755)
        where = Path(name) / "state"
        shutil.copytree(registered, where)
        yield where


def test_a_directory_of_somebody_else(public):
    (public / "registry").chmod(0)
    assert not dies(acts.open_as_nobody, public, r"cannot use .*: Permission denied")
    (public / "registry").chmod(0o700)


def test_a_directory_that_cannot_be_written(public):
    for path in [public, *public.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)
    assert not dies(acts.open_as_nobody, public, r"cannot use .*(readonly database|unable to open|denied)")
    for path in [public, *public.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)
    with opened(public) as state:
        assert state.workflow("w").default == "1.0"


def test_a_database_that_cannot_be_written(public):
    """It is refused when it is opened, not when somebody wants to change something."""
    for path in [public, *public.rglob("*")]:
        path.chmod(0o777 if path.is_dir() else 0o444)
    assert not dies(acts.open_as_nobody, public, r"cannot use .*readonly database")


def test_files_that_cannot_grow(registered, scratch):
    """As on a full disk or over a quota: nothing has changed, and nothing is taken for damaged."""
    assert not dies(acts.fill_the_disk, registered, scratch / "w.war")
    with opened(registered) as state:
        assert state.workflow("w").default == "1.0"
        assert len(state.history()) == 2
