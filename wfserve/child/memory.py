"""Memory that a handler has freed stays with the process: the next batch wants as much again.

glibc gives large blocks back to the system at once, and zeroed pages come back one fault at a time: for bytes
between nodes, images of 600 KB, that was a third of a worker's time.
"""

from __future__ import annotations

import ctypes
from typing import Final

KEPT_BYTES: Final = 128 * 2**20  # free memory at the end of the heap
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
