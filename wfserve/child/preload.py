"""What the fork server loads once, so that every worker finds it in memory; importing it starts nothing.

Each module that a worker would import by itself costs it milliseconds and a private copy of the memory.
"""

from __future__ import annotations

import gc
import importlib
import sys

import wfserve.child.main
import wfserve.transport.shm  # noqa: F401 - unpickled by the worker
from wfserve.child.surroundings import COMPAT

_OFTEN = ("ts.context", "ts.service", "ts.utils.util", "ts.torch_handler.base_handler")


def _load_ts() -> None:
    """Import what most handlers import; it is found only where `enter` has put it on the path."""
    sys.path.insert(0, COMPAT)
    try:
        for name in _OFTEN:
            importlib.import_module(name)
    finally:
        sys.path.remove(COMPAT)


_load_ts()
gc.collect()
gc.freeze()  # a collection in a worker would write to every object, and so copy every shared page
