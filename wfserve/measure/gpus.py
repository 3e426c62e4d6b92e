"""Readings of NVIDIA GPUs are `nvidia-smi`'s, at most `KEEP` seconds old; where it is not, there are none."""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
from typing import TYPE_CHECKING, NamedTuple

import trio

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

log = logging.getLogger(__name__)
KEEP = 10.0  # seconds
PATIENCE = 5.0  # seconds, for a reading
START_PATIENCE = 30.0  # … for the first answer, before which the driver may have to wake many GPUs
_QUERY = "index,memory.used,memory.total,utilization.gpu"
_UNREADABLE = (OSError, ValueError, subprocess.CalledProcessError, trio.TooSlowError)


class Gpu(NamedTuple):
    """One GPU: MiB in use and in all, and how busy it is (percent, nan where it cannot tell)."""

    number: str
    used: float
    total: float
    busy: float


class Gpus:
    """The machine's GPUs."""

    def __init__(self) -> None:
        self._command = shutil.which("nvidia-smi")
        self._read_at = -math.inf
        self._last: list[Gpu] = []

    async def read(self) -> list[Gpu]:
        """Return a reading of each GPU; none, and a line in the log, once they cannot be read."""
        if self._command is not None and trio.current_time() - self._read_at > KEEP:
            self._read_at = trio.current_time()
            try:
                self._last = await _ask(self._command)
            except _UNREADABLE as error:
                log.warning("GPUs cannot be read, and are not shown any more: %r", error)
                self._command, self._last = None, []
        return self._last


async def count(environ: Mapping[str, str], at_most: int | None = None) -> int:
    """Return how many GPUs a process with the variables `environ` may use, `at_most` so many.

    CUDA is not asked, which could not be used by forked processes any more. Where GPUs cannot be listed there
    are none; a line in the log says why, unless there is no `nvidia-smi`.
    """
    command = shutil.which("nvidia-smi")
    if command is None or at_most == 0:
        return 0
    try:
        uuids = [row.strip() for row in await _rows(command, "uuid", START_PATIENCE)]
    except _UNREADABLE as error:
        log.warning("GPUs cannot be listed, and workers get none: %r", error)
        return 0
    seen = visible(environ.get("CUDA_VISIBLE_DEVICES"), uuids)
    return seen if at_most is None else min(seen, at_most)


def visible(listed: str | None, uuids: Sequence[str]) -> int:
    """Return how many of the GPUs `uuids` CUDA shows where CUDA_VISIBLE_DEVICES is `listed`.

    They are named by number or by the beginning of a UUID, up to the first that is not there; twice the same
    is none at all. Parts of a GPU (`MIG-…`) are believed to be there, and CUDA shows one of them.
    """
    if listed is None:
        return len(uuids)
    shown: list[str] = []
    for name in map(str.strip, listed.split(",")):
        if (found := _named(name, uuids)) is None:
            break
        if found in shown:
            return 0
        shown.append(found)
    return min(len(shown), 1) if any(each.startswith("MIG-") for each in shown) else len(shown)


def _named(name: str, uuids: Sequence[str]) -> str | None:
    if name.isdecimal():
        return uuids[int(name)] if int(name) < len(uuids) else None
    if name.startswith("MIG-"):
        return name
    found = [uuid for uuid in uuids if name and uuid.startswith(name)]
    return found[0] if len(found) == 1 else None


async def _ask(command: str) -> list[Gpu]:
    return [_gpu(row.split(", ")) for row in await _rows(command, _QUERY, PATIENCE)]


async def _rows(command: str, query: str, patience: float) -> list[str]:
    with trio.fail_after(patience):
        done = await trio.run_process(
            [command, f"--query-gpu={query}", "--format=csv,noheader,nounits"],
            capture_stdout=True,
            capture_stderr=True,
        )
    return done.stdout.decode().splitlines()


def _gpu(fields: list[str]) -> Gpu:
    number, *amounts = fields
    used, total, busy = (math.nan if amount.startswith("[") else float(amount) for amount in amounts)
    return Gpu(number, used, total, busy)
