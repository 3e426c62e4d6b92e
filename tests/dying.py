"""A process that dies at any step: before the n-th line that it runs of a room, killed for good.

A fork takes the longer the larger its parent is, and pytest's process holds torch. So it is a small helper
(`tests.mortal`) that forks, and what is to die is a function of a module that imports little.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
from contextlib import contextmanager
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

    Prepare = Callable[..., Callable[[], object]]

DIED = 86
ROOT = Path(__file__).parents[1]
MEMORY = (
    "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
)  # what dies with a process alone needs no disk
_helpers: list[subprocess.Popen[bytes]] = []


@contextmanager
def helper() -> Iterator[None]:
    """Keep the process that forks for `dies`."""
    command = [sys.executable, "-W", "error", "-m", "tests.mortal"]
    with subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        _helpers.append(process)
        try:
            yield
        finally:
            _helpers.remove(process)


def dies(action: Callable[..., object], *arguments: object) -> bool:
    """Run `action(die, *arguments)` in a fork and return whether it died, or came to its end."""
    (process,) = _helpers
    pickle.dump((action, arguments), process.stdin)
    process.stdin.flush()
    code = pickle.load(process.stdout)
    assert code in (0, DIED), f"it failed, with {code}"
    return code == DIED


def dying_at(step: int, room: str, die: Callable[[], None]) -> Callable[..., Any]:
    """Return a function for `sys.settrace` that dies before the `step`-th line of files below `room`."""
    steps = iter(range(step - 1))

    def trace(frame: FrameType, event: str, _: object) -> Callable[..., Any] | None:
        if room not in frame.f_code.co_filename:
            return None
        if event == "line" and next(steps, None) is None:
            die()
        return trace

    return trace


def die_at(die: Callable[[], None], step: int, room: str, prepare: Prepare, *given: object) -> None:
    """Die at a step of what `prepare(*given)` returns; `prepare` itself runs unharmed."""
    act = prepare(*given)
    sys.settrace(dying_at(step, room, die))
    act()
    sys.settrace(None)


def deaths(room: str, prepare: Prepare, *given: object) -> Iterator[int]:
    """Die at every step of what `prepare(*given)` returns, one after another; give each after its death."""
    for step in count(1):
        if not dies(die_at, step, room, prepare, *given):
            return
        yield step
