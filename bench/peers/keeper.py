"""Runs a command; when the keeper ends, unless by SIGKILL, nothing that the command started is left.

    python -m bench.peers.keeper COMMAND ...

What the command starts and leaves behind, in whatever session, becomes the keeper's child: it is a subreaper.
SIGTERM, also the one that the kernel sends when the keeper's parent has died, ends all of them: the command
first, by SIGTERM, and what is left after `GRACE` by SIGKILL.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time

from bench.processes import children

GRACE = 3.0  # seconds to end by itself
_PR_SET_PDEATHSIG, _PR_SET_CHILD_SUBREAPER = 1, 36  # of linux/prctl.h


class ToldToStopError(Exception):
    """Somebody wants the keeper to end."""


def main() -> None:
    """Run the command of the command line; exit as it does."""
    signal.signal(signal.SIGTERM, _told)
    libc = ctypes.CDLL(None, use_errno=True)
    for option, value in ((_PR_SET_CHILD_SUBREAPER, 1), (_PR_SET_PDEATHSIG, signal.SIGTERM)):
        if libc.prctl(option, value, 0, 0, 0):
            raise OSError(ctypes.get_errno(), "prctl")
    status, process = 1, None
    try:
        process = subprocess.Popen(sys.argv[1:], start_new_session=True)
        status = process.wait()
    except ToldToStopError:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if process is not None:  # else it was being started
            process.terminate()
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(GRACE)
    finally:
        while left := descendants(os.getpid()):
            _kill(left)
    sys.exit(status)


def _told(*_: object) -> None:
    raise ToldToStopError


def descendants(pid: int) -> set[int]:
    """Return the process ids of all children of `pid`, of theirs, and so on."""
    found: set[int] = set()
    unseen = [pid]
    while unseen:
        new = set(children(unseen.pop())) - found
        found |= new
        unseen += new
    return found


def _kill(pids: set[int]) -> None:
    """Kill what are all descendants of this process: their ids are theirs until it has waited for them."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    time.sleep(0.01)
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


if __name__ == "__main__":
    main()
