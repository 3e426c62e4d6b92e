"""Hot modules run compiled where what was compiled are the sources that are there, and else interpreted.

One source, two forms: `native/compile.py` compiles with mypyc what is run for each request, when wfserve is
installed, into `wfserve/binaries`. They are all from one build, since they know how each other's objects are
laid out, so a single source that has been edited since has all of them interpreted. `WFSERVE_INTERPRETED=1`
does so, too: to debug, or to see lines in a profile.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES, ExtensionFileLoader, ModuleSpec
from importlib.util import spec_from_file_location
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

LIBRARY = "wfserve__mypyc"  # what the extensions of all modules load
SWITCH = "WFSERVE_INTERPRETED"
why_not = ""  # the hot modules run compiled; empty if they do


class Finder:
    """Finds modules in files that are named like them, before their sources are found."""

    def __init__(self, files: Mapping[str, Path]) -> None:
        self._files = files

    def find_spec(self, name: str, path: object = None, target: object = None) -> ModuleSpec | None:
        """Return how to load a module, as `sys.meta_path` has it."""
        if (file := self._files.get(name)) is None:
            return None
        return spec_from_file_location(name, file, loader=ExtensionFileLoader(name, str(file)))


def install(package: Iterable[str]) -> None:
    """Have hot modules be imported compiled, if they can be; `package` is where that of wfserve lies."""
    global why_not
    directories = [Path(directory) for directory in package]
    why_not, files = find(directories)
    if not why_not:
        sys.meta_path.insert(0, Finder(files))


def find(directories: Iterable[Path]) -> tuple[str, dict[str, Path]]:
    """Return why not, or the files of the hot modules and of their library, by module."""
    if os.environ.get(SWITCH, "0") != "0":
        return f"{SWITCH} is set", {}
    binaries = _first(directories, "binaries/manifest.json")
    if binaries is None:
        return "nothing was compiled when wfserve was installed", {}
    manifest: dict[str, str] = json.loads(binaries.read_text())
    files = {name: binaries.with_name(name + EXTENSION_SUFFIXES[0]) for name in (LIBRARY, *manifest)}
    if not files[LIBRARY].exists():
        return "it was compiled for another Python", {}
    for name, digest in manifest.items():
        source = _first(directories, name.partition(".")[2].replace(".", "/") + ".py")
        if source is None or hashlib.sha256(source.read_bytes()).hexdigest() != digest:
            return f"{name} has been edited since wfserve was installed", {}
    return "", files


def _first(directories: Iterable[Path], name: str) -> Path | None:
    return next((directory / name for directory in directories if (directory / name).is_file()), None)
