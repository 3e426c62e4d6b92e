"""How much memory processes hold is read from `/proc`, for whole process groups, whatever they started."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

_GROUP, _RESIDENT = 2, 21  # of the fields after the name of the command (proc_pid_stat(5))


def resident_bytes(groups: Iterable[int]) -> dict[int, int]:
    """Return the resident bytes of each process group, pages that its processes share in each. Blocks."""
    page = os.sysconf("SC_PAGE_SIZE")
    held = dict.fromkeys(groups, 0)
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):  # it has just ended
            fields = stat.read_bytes().rpartition(b")")[2].split()
            group = int(fields[_GROUP])
            if group in held:
                held[group] += int(fields[_RESIDENT]) * page
    return held
