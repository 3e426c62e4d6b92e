"""Each peer has a virtual environment of its own, made once and made anew when what it needs has changed."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

TORCH = "torch==2.13.0"  # as wfserve's own environment has it; TORCH in the environment says otherwise
PATIENCE = 1800.0  # seconds for an installation
_VERSIONS = (
    "import importlib.metadata as m, json, sys;"
    "print(json.dumps({name: m.version(name) for name in sys.argv[1:]}))"
)


class SetUpError(Exception):
    """A peer that cannot be set up here, and why."""


@dataclass(frozen=True, slots=True)
class Environment:
    """A virtual environment with what was asked for."""

    python: Path
    versions: dict[str, str]  # by distribution


def set_up(directory: Path, packages: Sequence[str]) -> Environment:
    """Return the environment in `directory` with `packages`, made if need be. Raises `SetUpError`."""
    python, stamp = directory / "bin" / "python", directory / "packages.json"
    wanted = json.dumps([platform.python_version(), *packages])
    try:
        if not (stamp.exists() and stamp.read_text() == wanted):
            print(f"installing {' '.join(packages)}", flush=True)
            _make(directory, packages)
            stamp.write_text(wanted)
        return Environment(python, _versions(python, packages))
    except (OSError, subprocess.SubprocessError) as error:
        raise SetUpError(_reason(error)) from error


def with_torch(packages: Sequence[str]) -> list[str]:
    """Return `packages` and what every app computes with."""
    return [os.environ.get("TORCH") or TORCH, "numpy", *packages]


def _make(directory: Path, packages: Sequence[str]) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(directory)])
    install = ["-m", "pip", "--disable-pip-version-check", "install", "--quiet", *packages]
    _run([str(directory / "bin" / "python"), *install])


def _versions(python: Path, packages: Sequence[str]) -> dict[str, str]:
    names = [package.partition("=")[0].partition("[")[0].strip("<>") for package in packages]
    versions: dict[str, str] = json.loads(_run([str(python), "-c", _VERSIONS, *names]))
    return versions


def _run(command: list[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE).stdout


def _reason(error: Exception) -> str:
    if not isinstance(error, subprocess.CalledProcessError):
        return str(error)
    lines = [line for line in error.stderr.splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("ERROR")), lines[-1] if lines else str(error))
