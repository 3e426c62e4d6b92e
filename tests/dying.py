"""A process that dies at any step: before the n-th line that it runs of a room, in a fork of this one."""

from __future__ import annotations

import os
import sys
import traceback
from itertools import count
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import FrameType
    from typing import Any

DIED = 86
MEMORY = (
    "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
)  # what dies with a process alone needs no disk


def dies(action: Callable[[Callable[[], None]], None]) -> bool:
    """Run `action` in a fork and return whether it died, by calling what it is given, or came to its end."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            action(lambda: os._exit(DIED))
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
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


def deaths(room: str, prepare: Callable[[], Callable[[], object]]) -> Iterator[int]:
    """Die at every step of what `prepare` returns, one after another; give each step after its death.

    `prepare` itself runs in the fork, unharmed.
    """
    for step in count(1):

        def action(die: Callable[[], None], step: int = step) -> None:
            act = prepare()
            sys.settrace(dying_at(step, room, die))
            act()
            sys.settrace(None)

        if not dies(action):
            return
        yield step
