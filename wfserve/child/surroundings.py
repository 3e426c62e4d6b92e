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

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.spec import WorkerSpec

COMPAT = str(Path(__file__).parent.parent / "compat")


def settle(spec: WorkerSpec, server_pidfd: int) -> None:
    """Make the surroundings of a worker; once in a process, before the handler is loaded."""
    os.setpgid(0, 0)
    die_with(server_pidfd)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # the terminal's; the server decides what ends
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with contextlib.suppress(OSError):  # only a name, for those who look at processes
        Path("/proc/self/comm").write_text(f"wf:{spec.name}", encoding="utf-8")
    logging.basicConfig(
        stream=sys.stderr,
        level=logging.INFO,
        format=f"%(asctime)s %(levelname)s {spec.name.replace('%', '%%')} %(name)s: %(message)s",
        force=True,
    )
    enter(spec)


def die_with(server_pidfd: int) -> None:
    """Kill this process group when the server is gone; a native thread sees to it."""
    from wfserve import _native

    _native.watch_parent(server_pidfd)


def enter(spec: WorkerSpec) -> None:
    """Make the archive's directory the working directory, and importable here and in what handlers start.

    Variables whose name is one of `spec.hidden_variables` are gone before any of its code runs.
    """
    import torch

    hide_variables(spec.hidden_variables)
    torch.set_num_threads(spec.threads)
    inherited = [entry for entry in os.environ.get("PYTHONPATH", "").split(os.pathsep) if entry]
    first = import_path(spec.model_dir, inherited, spec.packages)
    os.environ["PYTHONPATH"] = os.pathsep.join(first)
    installed = [os.path.abspath(entry) for entry in sys.path if entry]
    sys.path[:] = dict.fromkeys([*first, *installed])
    os.chdir(spec.model_dir)


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
