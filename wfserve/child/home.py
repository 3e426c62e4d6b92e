"""A Home is where one node's code lives: its working directory, its import path, and its modules.

A worker that runs a chain of nodes goes from home to home, so that each node finds what it would find in a
worker of its own: archives may have modules of equal names, two functions of a file their own globals each.
What is process-wide is shared all the same: the environment but PYTHONPATH, torch's settings, installed
packages.
"""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import ModuleType


class Left:
    """What the last of several homes has left behind, which need not be set again; None: who knows."""

    directory: str | None = None
    own: str | None = None


class Home:
    """The surroundings of one node, while it is entered; a context manager."""

    def __init__(
        self, directory: str, own: Sequence[str], installed: Sequence[str], left: Left | None = None
    ) -> None:
        """Make the home of an archive; `own` precedes the `installed` packages on its import path.

        Homes that share `left` are the only ones to change what is around them.
        """
        self._left = Left() if left is None else left
        self._directory = os.path.abspath(directory)
        self._own = os.pathsep.join(own)  # PYTHONPATH, for what the node starts
        self._path = list(dict.fromkeys([*own, *installed]))
        self._roots = tuple(os.path.join(root, "") for root in {self._directory, os.path.realpath(directory)})
        self._modules: dict[str, ModuleType] = {}
        self._known = 0

    def __enter__(self) -> None:
        self.enter()

    def __exit__(self, *_exception: object) -> None:
        self.leave()

    def enter(self) -> None:
        """Make these the surroundings of what runs next."""
        if self._left.directory != self._directory:
            _move_to(self._directory)
        if self._left.own != self._own:
            os.environ["PYTHONPATH"] = self._own
        sys.path[:] = self._path
        sys.modules.update(self._modules)
        self._known = len(sys.modules)

    def leave(self) -> None:
        """Take the modules of this home out of sight, and remember where the node has moved to."""
        self._path = sys.path[:]
        self._own = self._left.own = os.environ.get("PYTHONPATH", "")
        self._left.directory = _working_directory()
        self._directory = self._left.directory or self._directory
        if len(sys.modules) != self._known:
            self._modules |= self._imported()
        for name in self._modules:
            self._modules[name] = sys.modules.pop(name, self._modules[name])

    def _imported(self) -> dict[str, ModuleType]:
        return {name: module for name, module in list(sys.modules.items()) if self._is_own(module)}

    def _is_own(self, module: ModuleType) -> bool:
        return any(place.startswith(self._roots) for place in _places(module))


def _move_to(directory: str) -> None:
    try:
        os.chdir(directory)
    except FileNotFoundError:  # it has been removed since
        return


def _working_directory() -> str | None:
    try:
        return os.getcwd()
    except FileNotFoundError:
        return None


def _places(module: ModuleType) -> Iterator[str]:
    """Yield where a module lies; one without a file is a package of several directories, or of none."""
    file = getattr(module, "__file__", None)
    if isinstance(file, str):
        yield os.path.abspath(file)
    else:
        yield from (os.path.join(str(place), "") for place in getattr(module, "__path__", None) or ())
