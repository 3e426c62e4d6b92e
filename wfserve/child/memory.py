"""Memory that a handler has freed stays with the process, as far as the next batch may want it again.

glibc gives large blocks back to the system at once, and zeroed pages come back one fault at a time: for bytes
between nodes, images of 600 KB, that was a third of a worker's time.
"""

from __future__ import annotations

import ctypes
import time
from typing import Final

KEPT_BYTES: Final = 128 * 2**20  # free memory at the end of the heap
MOST_FREE_BYTES: Final = 512 * 2**20  # wherever it is: more is what is left of a peak
LOOK_INTERVAL: Final = 1.0  # seconds
MAPPED_BYTES: Final = 64 * 2**20  # blocks from this size on are mapped on their own, and given back
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3


def keep_freed() -> bool:
    """Give back what loading has left, and keep what is freed from now on; False where there is no glibc."""
    libc = ctypes.CDLL(None)
    try:
        trim, set_option = libc.malloc_trim, libc.mallopt
    except AttributeError:
        return False
    trim(0)
    return all([set_option(_TRIM_THRESHOLD, KEPT_BYTES), set_option(_MMAP_THRESHOLD, MAPPED_BYTES)])


_FIELDS = (
    *("arena", "ordblks", "smblks", "hblks", "hblkhd"),
    *("usmblks", "fsmblks", "uordblks", "fordblks", "keepcost"),
)


class _Usage(ctypes.Structure):
    """glibc's `struct mallinfo2`."""

    _fields_ = [(name, ctypes.c_size_t) for name in _FIELDS]


class Peaks:
    """Gives back what is left of a peak: told of each batch, it looks now and then."""

    def __init__(self) -> None:
        libc = ctypes.CDLL(None)
        self._next = 0.0
        try:
            self._usage, self._trim = libc.mallinfo2, libc.malloc_trim
        except AttributeError:  # no glibc, or one before 2.33
            self._next = float("inf")
        else:
            self._usage.restype = _Usage

    def settle(self) -> None:
        """Look whether more is free than will be wanted again."""
        if (now := time.monotonic()) < self._next:
            return
        self._next = now + LOOK_INTERVAL
        if self._usage().fordblks > MOST_FREE_BYTES:
            self._trim(KEPT_BYTES)
