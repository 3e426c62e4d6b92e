"""Only the process that holds a state directory's lock is told to stop, whoever has its number by now."""

from __future__ import annotations

import os
import select
import signal
from contextlib import suppress
from typing import TYPE_CHECKING

from wfserve.errors import ConfigError
from wfserve.state.lock import LOCK

if TYPE_CHECKING:
    from pathlib import Path


def stop_holder(state_dir: Path, timeout: float) -> int | None:
    """Send SIGTERM to the server of `state_dir` and wait until it has ended.

    Returns its process number, or None if there is no server. Raises `ConfigError` if it is another user's,
    and `TimeoutError` if it has not ended within `timeout` seconds.
    """
    lock = state_dir / LOCK
    try:
        pid = int(lock.read_bytes()[:32])
        process = os.pidfd_open(pid)  # from here on the number cannot become another process's
    except (FileNotFoundError, ProcessLookupError, ValueError, OverflowError):
        return None
    except PermissionError:
        raise ConfigError(f"{lock} is another user's") from None
    try:
        if not _has_open(pid, lock):
            return None
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process, signal.SIGTERM)
        if not select.select([process], [], [], timeout)[0]:
            raise TimeoutError(f"process {pid} was told to stop and has not ended in {timeout:g} seconds")
    finally:
        os.close(process)
    return pid


def _has_open(pid: int, lock: Path) -> bool:
    """Whether process `pid` has the file `lock` open, which a server has while it serves."""
    try:
        files = list(os.scandir(f"/proc/{pid}/fd"))
    except FileNotFoundError:
        return False
    except PermissionError:
        raise ConfigError(f"process {pid}, which may serve with {lock.parent}, is another user's") from None
    for file in files:
        with suppress(OSError):  # closed meanwhile
            if os.path.samefile(file.path, lock):
                return True
    return False
