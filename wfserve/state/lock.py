"""One server at a time owns a state directory; the lock goes with its process, however that ends."""

from __future__ import annotations

import fcntl
import os
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

LOCK = "lock"  # the file, which names the process that holds it


@contextmanager
def exclusive(state_dir: Path) -> Iterator[None]:
    """Hold the lock of `state_dir`, made if need be.

    Raises `ConfigError` that names the holder, or says why the directory cannot be used.
    """
    path = state_dir / LOCK
    try:
        state_dir.mkdir(parents=True, exist_ok=True)
        file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise ConfigError(f"cannot use the state directory {state_dir}: {error.strerror}") from None
    try:
        try:
            _lock(file, path)
        except OSError as error:  # of a file system without locks, or without space
            raise ConfigError(f"cannot lock {path}: {error.strerror}") from None
        yield
    finally:
        os.close(file)


def _lock(file: int, path: Path) -> None:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        holder = os.pread(file, 32, 0).decode("ascii", "replace").strip() or "unknown"
        raise ConfigError(
            f"process {holder} already serves with {path.parent}; one server a state directory "
            "(hypercorn: run it with one worker, without -w)"
        ) from None
    os.ftruncate(file, 0)
    os.pwrite(file, f"{os.getpid()}\n".encode(), 0)
