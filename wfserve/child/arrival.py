"""The first of our modules in an interpreter of its own: nothing is imported before the model's packages are.

A model with packages of its own cannot be a child of the fork server, which has imported torch and numpy
already. multiprocessing's `spawn` would unpickle a worker's arguments, and with them import half of wfserve,
on the server's import path; here they stay pickled until the model's packages come first on it.
"""

from __future__ import annotations

import os
import pickle
import site
import sys
from multiprocessing.reduction import ForkingPickler
from typing import Any


class Carried:
    """A worker's arguments on their way into an interpreter that finds `packages` first."""

    def __init__(self, packages: str | None, *arguments: object) -> None:
        self._packages = packages
        self._arguments = arguments

    def __reduce__(self) -> tuple[Any, ...]:
        # Pickled now, while the child is being started: what carries file descriptors needs it.
        return _arrived, (self._packages, bytes(ForkingPickler.dumps(self._arguments)))


def _arrived(packages: str | None, pickled: bytes) -> Any:
    if packages is not None:
        find_first(packages)
    return pickle.loads(pickled)


def find_first(packages: str) -> None:
    """Put a directory of packages, and what its `.pth` files add, before all else on the import path."""
    before = list(sys.path)
    sys.path[:] = [os.path.abspath(packages)]
    site.addsitedir(packages, known_paths={os.path.abspath(packages)})
    sys.path += [entry for entry in before if entry not in sys.path]


def run(arguments: tuple[Any, ...]) -> None:
    """Be a worker; what a spawned `Process` runs. See `child.main.run`."""
    from wfserve.child.main import run as be_worker

    be_worker(*arguments)
