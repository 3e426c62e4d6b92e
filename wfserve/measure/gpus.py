"""Readings of NVIDIA GPUs are `nvidia-smi`'s, at most `KEEP` seconds old; where it is not, there are none."""

from __future__ import annotations

import logging
import math
import shutil
import subprocess
from typing import NamedTuple

import trio

log = logging.getLogger(__name__)
KEEP = 10.0  # seconds
PATIENCE = 5.0  # seconds
_QUERY = "index,memory.used,memory.total,utilization.gpu"


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
            except (OSError, ValueError, subprocess.CalledProcessError, trio.TooSlowError) as error:
                log.warning("GPUs cannot be read, and are not shown any more: %r", error)
                self._command, self._last = None, []
        return self._last


async def _ask(command: str) -> list[Gpu]:
    with trio.fail_after(PATIENCE):
        done = await trio.run_process(
            [command, f"--query-gpu={_QUERY}", "--format=csv,noheader,nounits"],
            capture_stdout=True,
            capture_stderr=True,
        )
    return [_gpu(row.split(", ")) for row in done.stdout.decode().splitlines()]


def _gpu(fields: list[str]) -> Gpu:
    number, *amounts = fields
    used, total, busy = (math.nan if amount.startswith("[") else float(amount) for amount in amounts)
    return Gpu(number, used, total, busy)
