"""Whoever measures runs on the core it names, and what it took is read from the kernel's clocks."""

from __future__ import annotations

import os
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator


@contextmanager
def on_core(core: int) -> Iterator[None]:
    """Keep this thread, and the processes it starts, on one core for a while."""
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, {core})
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def ends() -> tuple[int, int]:
    """Return the first and the last core that this process may use: for a server, and for a worker."""
    cores = os.sched_getaffinity(0)
    return min(cores), max(cores)


def cpu_seconds(pid: int) -> float:
    """Return the CPU time that all threads of a process have taken so far."""
    return time.clock_gettime(~pid << 3 | 2)  # as clock_getcpuclockid(3) makes the id
