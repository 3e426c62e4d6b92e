"""A change to a directory is on the disk when the function that made it returns."""

from __future__ import annotations

import os
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from wfserve.errors import InternalError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


class StateError(InternalError):
    """The state directory could not be read or written; what was asked for has not happened (500)."""


def make_directory(path: Path) -> None:
    """Make `path`, whose parent exists, for its owner alone; it may exist already."""
    path.mkdir(mode=0o700, exist_ok=True)
    sync(path.parent)


def sync(path: Path) -> None:
    """Wait until the file, or the entries of the directory, at `path` are on the disk."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def move(source: Path, target: Path) -> None:
    """Give the file `source`, which is on the disk already, the name `target`, whatever had that before."""
    os.replace(source, target)
    sync(target.parent)


def put_aside(path: Path) -> Path:
    """Rename `path` to `<name>.damaged-<timestamp>` beside it; return where it is now."""
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = path.with_name(f"{path.name}.damaged-{stamp}")
    path.rename(aside)
    sync(aside.parent)
    return aside


@contextmanager
def failures_told(what: str) -> Iterator[None]:
    """Raise `StateError` that says `what` could not be done and why, where the system refuses."""
    try:
        yield
    except OSError as error:
        raise StateError(f"cannot {what}: {error.strerror or error}") from error
