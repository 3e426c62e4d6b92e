"""The process that `tests.dying` has forked: it runs nothing itself, and imports what its forks need once."""

from __future__ import annotations

import os
import pickle
import sys
import traceback
from typing import TYPE_CHECKING

from tests.dying import DIED

if TYPE_CHECKING:
    from collections.abc import Callable


def run(action: Callable[..., object], arguments: tuple[object, ...]) -> int:
    """Run `action(die, *arguments)` in a fork; return the code that it ended with."""
    pid = os.fork()
    if not pid:
        code = 1
        try:
            action(lambda: os._exit(DIED), *arguments)
            code = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def main() -> None:
    """Answer until nobody asks any more."""
    while sys.stdin.buffer.peek():
        code = run(*pickle.load(sys.stdin.buffer))
        pickle.dump(code, sys.stdout.buffer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    main()
