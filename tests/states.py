"""What tests of the state build: archives, versions, and a state that is opened for a while."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from wfserve.state.durable import open_state
from wfserve.state.records import Version
from wfserve.state.store import Author

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from wfserve.state.durable import State

AUTHOR = Author("management", "127.0.0.1")


@contextmanager
def opened(directory: Path) -> Iterator[State]:
    """A state in which nothing is damaged."""
    state, problems = open_state(directory)
    try:
        assert not problems
        yield state
    finally:
        state.close()


def register(
    state: State, scratch: Path, name: str, version: str, *, default: bool = False, **fields: object
) -> Version:
    """Register a version with an archive and a model of its own."""
    scratch.mkdir(exist_ok=True)
    war, mar = scratch / "w.war", scratch / "m.mar"
    war.write_text(f"the archive of {name} {version}")
    mar.write_text("a model that all of them share")
    with state.contents.transfer() as transfer:
        models = {"model": transfer.put(mar)}
        made = Version(version, transfer.put(war), f"{name}.war", given=True, models=models, **fields)
        state.add_version(AUTHOR, name, made, default=default)
    return made
