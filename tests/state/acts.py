"""What processes do that are to die of it: each of their forks imports this, so it imports little."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import resource
from contextlib import contextmanager
from typing import TYPE_CHECKING

from tests.states import AUTHOR, register
from wfserve.errors import ConfigError, WfserveError
from wfserve.state.contents import Contents
from wfserve.state.durable import open_state
from wfserve.state.files import StateError
from wfserve.state.records import Content, LiveSettings, Sample, Traffic, Version
from wfserve.state.snapshot import import_snapshot

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path
    from typing import Any

    from wfserve.state.durable import State

NOBODY = 65534
EMPTY = Content("e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855", 0)


def sampled(state: State, *, recorded: bool) -> None:
    """Keep a request as the sample of `w`."""
    with state.contents.transfer() as transfer:
        sample = Sample(transfer.write(b"a body"), {"content-type": "text/plain"})
        state.set_sample(AUTHOR, "w", sample, recorded=recorded)


def exchanged(state: State, scratch: Path) -> None:
    """Exchange the archive of version 2.0."""
    (scratch / "other.war").write_text("another archive of w 2.0")
    with state.contents.transfer() as transfer:
        version = dataclasses.replace(
            state.workflow("w").version("2.0"), archive=transfer.put(scratch / "other.war")
        )
        state.exchange_version(AUTHOR, "w", version)


def replaced(state: State, scratch: Path) -> None:
    """Register a version in the place of the default."""
    (scratch / "other.war").write_text("the archive of w 3.0")
    with state.contents.transfer() as transfer:
        version = Version("3.0", transfer.put(scratch / "other.war"), "w.war", given=True)
        state.add_version(AUTHOR, "w", version, replace=True)


CHANGES: dict[str, Callable[[State, Path], object]] = {
    "register": lambda state, scratch: register(state, scratch, "w", "3.0", default=True),
    "register again": exchanged,
    "replace": replaced,
    "remove": lambda state, _: state.remove(AUTHOR, "w"),
    "remove a version": lambda state, _: state.remove_version(AUTHOR, "w", "2.0"),
    "clear": lambda state, _: state.clear(AUTHOR),
    "set default": lambda state, _: state.set_default(AUTHOR, "w", "2.0"),
    "roll back": lambda state, _: state.roll_back(AUTHOR, "w"),
    "traffic": lambda state, _: state.set_traffic(AUTHOR, "w", Traffic({"2.0": 1.0})),
    "settings": lambda state, _: state.set_settings(AUTHOR, "w", "1.0", {"n": LiveSettings(1, 2)}),
    "sample": lambda state, _: sampled(state, recorded=False),
    "recorded sample": lambda state, _: sampled(state, recorded=True),
    "await a sample": lambda state, _: state.await_sample(AUTHOR, "v"),
    "remove a sample": lambda state, _: state.remove_sample(AUTHOR, "w"),
}


def open_new(directory: Path) -> Callable[[], object]:
    return lambda: open_state(directory)


def change(directory: Path, name: str, scratch: Path) -> Callable[[], object]:
    state, _ = open_state(directory)
    return lambda: CHANGES[name](state, scratch)


def import_into(directory: Path, file: Path) -> Callable[[], object]:
    state, _ = open_state(directory)
    return lambda: import_snapshot(state, file, AUTHOR)


def put(directory: Path, archive: Path) -> Callable[[], object]:
    def act() -> None:
        with Contents(directory).transfer() as transfer:
            transfer.put(archive)

    return act


def make(state: State, change: tuple[Any, ...]) -> None:
    """Make a change of `test_any_sequence` to a state."""
    what, name, *given = change
    if what == "add":
        version, default = given
        state.add_version(AUTHOR, name, Version(version, EMPTY, "w.war"), default=default)
    elif what == "traffic":
        weights, shadow = given
        state.set_traffic(AUTHOR, name, Traffic(dict.fromkeys(weights, 1.0), None, shadow))
    elif what == "settings":
        version, least, most = given
        state.set_settings(AUTHOR, name, version, {"n": LiveSettings(least, most)})
    elif what == "sample":
        _make_sample(state, name, *given)
    elif what == "default":
        state.set_default(AUTHOR, name, *given)
    else:
        getattr(state, what)(AUTHOR, name, *given)


def _make_sample(state: State, name: str, kind: str) -> None:
    """Make a change to the sample of a workflow."""
    if kind == "awaited":
        state.await_sample(AUTHOR, name)
    elif kind == "removed":
        state.remove_sample(AUTHOR, name)
    else:
        state.set_sample(AUTHOR, name, Sample(EMPTY, {"accept": kind}), recorded=kind == "recorded")


def opened_to_make(directory: Path, change: tuple[Any, ...]) -> Callable[[], object]:
    state, _ = open_state(directory)
    return lambda: make(state, change)


def die_in_database(die: Callable[[], None], step: int, directory: Path) -> None:
    """Die at a step of SQLite's own that setting the default of `w` takes."""
    state, _ = open_state(directory)
    steps = iter(range(step - 1))
    state._store._database.set_progress_handler(lambda: next(steps, None) is None and die(), 1)
    state.set_default(AUTHOR, "w", "2.0")


@contextmanager
def raises(kind: type[WfserveError], told: str) -> Iterator[None]:
    """As pytest's, which is not imported here."""
    try:
        yield
    except kind as error:
        found = error.message
    else:
        found = f"no {kind.__name__}"
    assert re.search(told, found), found


def open_as_nobody(_: Callable[[], None], directory: Path, told: str) -> None:
    """Fail to open a state without root's rights, which ignore permissions."""
    if os.getuid() == 0:
        os.setgroups([])
        os.setgid(NOBODY)
        os.setuid(NOBODY)
    with raises(ConfigError, told):
        open_state(directory)


def fill_the_disk(_: Callable[[], None], directory: Path, archive: Path) -> None:
    """Fail to change a state, or to store an archive, when no file can grow."""
    state, _ = open_state(directory)
    before = state.workflows
    resource.setrlimit(resource.RLIMIT_FSIZE, (4, 4))
    with raises(StateError, r"cannot use .*state\.sqlite"):
        state.set_default(AUTHOR, "w", "2.0")
    with (
        raises(StateError, f"cannot store .*{os.strerror(errno.EFBIG)}"),
        state.contents.transfer() as transfer,
    ):
        transfer.put(archive)
    assert state.workflows == before
