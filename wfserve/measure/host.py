"""Readings of the machine at the moment they are asked for, from /proc and the file system of `/`.

Fields of /proc/stat and /proc/meminfo are those of proc(5).
"""

from __future__ import annotations

import os
import socket
from pathlib import Path
from typing import NamedTuple

NAME = socket.gethostname()
MEGABYTE = 1 << 20
GIGABYTE = 1 << 30


class Cpu:
    """How busy the processors were between one reading and the next."""

    def __init__(self) -> None:
        self._before = 0, 0

    def percent(self) -> float:
        """Return the share of time that was not idle since the last call, at first since the start."""
        before, self._before = self._before, _ticks()
        busy, total = (now - then for now, then in zip(self._before, before, strict=True))
        return round(100 * busy / total, 1) if total else 0.0


def _ticks() -> tuple[int, int]:
    """Return clock ticks spent busy, and all."""
    with open("/proc/stat", encoding="ascii") as file:
        ticks = [int(field) for field in file.readline().split()[1:9]]  # guests' are in user and nice
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


class Usage(NamedTuple):
    """Of something there is only so much of: bytes in use, bytes left, and percent in use."""

    used: float
    available: float
    percent: float


def memory() -> Usage:
    """Return the machine's memory; what caches would give back is available."""
    rows = (line.split() for line in Path("/proc/meminfo").read_text(encoding="ascii").splitlines())
    kilobytes = {row[0]: int(row[1]) for row in rows}
    total, available = kilobytes["MemTotal:"] * 1024, kilobytes["MemAvailable:"] * 1024
    return Usage(total - available, available, round(100 * (total - available) / total, 1))


def disk() -> Usage:
    """Return the file system of `/`; what is kept for the superuser is neither used nor available."""
    state = os.statvfs("/")
    used = (state.f_blocks - state.f_bfree) * state.f_frsize
    available = state.f_bavail * state.f_frsize
    return Usage(used, available, round(100 * used / max(1, used + available), 1))
