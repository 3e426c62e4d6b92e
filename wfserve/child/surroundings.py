"""A worker leads its own process group, dies with its server, and finds its archive before installed code."""

from __future__ import annotations

import contextlib
import logging
import os
import re
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from wfserve.child.home import Home, Left
from wfserve.child.spec import stage_name

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.spec import WorkerSpec

COMPAT = str(Path(__file__).parent.parent / "compat")
SAFE_PATH = "PYTHONSAFEPATH"  # a new interpreter then imports nothing from its working directory
OURS = "wfserve"  # its value where it is the server's, and not meant for what handlers start


def settle(chain: Sequence[WorkerSpec], server_pidfd: int) -> list[Home]:
    """Make the surroundings of a worker, once in a process; return the homes of its nodes, none entered yet.

    What is said of the process as a whole is the same in all specs of a chain.
    """
    name = stage_name(chain)
    os.setpgid(0, 0)
    die_with(server_pidfd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the server decides what ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # only a name, for those who look at processes
        Path("/proc/self/comm").write_text(f"wf:{name}", encoding="utf-8")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {name.replace('%', '%%')} %(name)s: %(message)s",
        force=True,
    )
    if os.environ.get(SAFE_PATH) == OURS:
        del os.environ[SAFE_PATH]
    hide_variables(chain[0].hidden_variables)
    set_threads(chain[0].threads)
    return homes_of(chain)


def set_threads(count: int) -> None:
    """Let torch compute with `count` threads."""
    import torch

    torch.set_num_threads(count)


def die_with(server_pidfd: int) -> None:
    """Kill this process group when the server is gone; a native thread sees to it."""
    from wfserve import _native

    _native.watch_parent(server_pidfd)


def homes_of(chain: Sequence[WorkerSpec]) -> list[Home]:
    """Return the home of each node: its archive comes before what this process has inherited."""
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    installed = [os.path.abspath(entry) for entry in sys.path if entry]
    left = Left()
    return [
        Home(spec.model_dir, import_path(spec.model_dir, inherited, spec.packages), installed, left)
        for spec in chain
    ]


def hide_variables(pattern: str) -> None:
    """Remove the environment variables whose whole name matches; an empty pattern hides none."""
    for name in [each for each in os.environ if pattern and re.fullmatch(pattern, each)]:
        del os.environ[name]


def import_path(model_dir: str, inherited: Sequence[str], packages: str | None = None) -> list[str]:
    """Return what precedes the installed packages on the import path, absolute.

    Our `ts` first, then the model's own packages, what PYTHONPATH held, the archive, and the directory that a
    linked archive stands in.
    """
    archive = os.path.abspath(model_dir)
    own = [os.path.abspath(packages)] if packages else []
    linked = [os.path.dirname(archive)] if os.path.islink(archive) else []
    return [COMPAT, *own, *map(os.path.abspath, inherited), archive, *linked]
