"""Whether memory is scarce, by what the kernel says of the machine and of this process's control groups.

It is, by any of these signs; those that a system does not have say nothing:

    MemAvailable of /proc/meminfo         less than AVAILABLE of MemTotal
    memory.current of a control group     more than FULL of memory.high or memory.max, without inactive files
    memory.pressure, or /proc/pressure    tasks waited for memory STALLED percent of the last 10 s, on average

The files are those of the kernel's documentation of control groups v2 and of pressure stall information.
"""

from __future__ import annotations

import math
from contextlib import suppress
from pathlib import Path

AVAILABLE = 0.05
FULL = 0.95
STALLED = 10.0
INTERVAL = 1.0  # seconds between readings


class MemoryPressure:
    """Reads at most once in `INTERVAL`; `root` is where the system's files are. No file of these blocks."""

    def __init__(self, root: Path = Path("/")) -> None:
        self._proc = root / "proc"
        self._groups = list(_groups(root))
        self._next = -math.inf
        self._scarce = False

    def __call__(self, now: float) -> bool:
        """Return whether memory is scarce, or was at a reading of the last second."""
        if now >= self._next:
            self._next = now + INTERVAL
            self._scarce = self._read()
        return self._scarce

    def _read(self) -> bool:
        stalls = [self._proc / "pressure/memory", *(group / "memory.pressure" for group in self._groups)]
        return (
            _little_available(self._proc / "meminfo")
            or any(map(_stalled, stalls))
            or any(map(_nearly_full, self._groups))
        )


def _groups(root: Path) -> list[Path]:
    """Return the control group of this process and those around it; the root has no limits."""
    lines = _text(root / "proc/self/cgroup").splitlines()
    own = next((line.removeprefix("0::/") for line in lines if line.startswith("0::/")), None)
    if own is None:
        return []
    mount = root / "sys/fs/cgroup"
    if ".." in Path(own).parts:  # it lies outside of what a container sees
        return [mount]
    return [each for each in (mount / own, *(mount / own).parents) if each.is_relative_to(mount)]


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="ascii")
    except (OSError, ValueError):
        return ""


def _fields(path: Path) -> dict[str, int]:
    """Return the numbers of a file that has a name and a number in each line."""
    found = {}
    for line in _text(path).splitlines():
        name, number, *_ = [*line.split(), "", ""]
        with suppress(ValueError):
            found[name.rstrip(":")] = int(number)
    return found


def _little_available(meminfo: Path) -> bool:
    fields = _fields(meminfo)
    total = fields.get("MemTotal", 0)
    return fields.get("MemAvailable", total) < AVAILABLE * total


def _stalled(pressure: Path) -> bool:
    """Whether some tasks waited: `some avg10=1.23 avg60=… avg300=… total=…`."""
    for line in _text(pressure).splitlines():
        kind, _, rest = line.partition(" avg10=")
        if kind == "some":
            with suppress(ValueError):
                return float(rest.partition(" ")[0]) >= STALLED
    return False


def _nearly_full(group: Path) -> bool:
    current, *limits = (_text(group / f"memory.{name}").strip() for name in ("current", "high", "max"))
    most = min([FULL * int(limit) for limit in limits if limit.isdigit()], default=math.inf)  # or it is "max"
    if not current.isdigit() or int(current) <= most:
        return False
    return int(current) - _fields(group / "memory.stat").get("inactive_file", 0) > most
