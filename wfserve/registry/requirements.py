"""A model's own packages live beside its archive, in a directory or a virtual environment, and go with it.

As in TorchServe: `requirements.txt` is installed only if `install_py_dep_per_model` allows it, and
`useVenv: true` in model-config.yaml gives a model an interpreter of its own, which sees the server's packages
behind those that it installs.
"""

from __future__ import annotations

import logging
import subprocess
import sys
import sysconfig
from typing import TYPE_CHECKING, NamedTuple

import trio

from wfserve.archive.manifest import member_of
from wfserve.errors import InvalidModelError

if TYPE_CHECKING:
    from pathlib import Path

    from wfserve.archive.mar import ModelArchive

log = logging.getLogger(__name__)
INHERITED = "inherited-from-the-server.pth"


class Packages(NamedTuple):
    """What a model runs with, where that is not what the server runs with."""

    python: str | None = None  # its interpreter
    directory: str | None = None  # is found first


async def install(model: ModelArchive, into: Path, *, allowed: bool) -> Packages:
    """Install the packages that `model` asks for into `into`, which need not exist.

    Returns empty `Packages` for a model that needs none of its own, or may not have them: `allowed` is
    `install_py_dep_per_model`. Raises `InvalidModelError` if pip fails; its output is in the log.
    """
    requirements = _requirements(model) if allowed else None
    if model.config.get("useVenv") is True:
        return await _into_environment(model.name, requirements, into)
    if requirements is None:
        return Packages()
    await _pip(model.name, sys.executable, "-U", "-t", str(into), "-r", str(requirements))
    return Packages(directory=str(into))


def _requirements(model: ModelArchive) -> Path | None:
    if model.requirements_file is None:
        return None
    return member_of(model.directory, model.requirements_file, InvalidModelError)


async def _into_environment(name: str, requirements: Path | None, into: Path) -> Packages:
    failure = f"Virtual environment creation failed for model {name}"
    await _run(failure, sys.executable, "-m", "venv", "--clear", str(into))
    python, packages = str(into / "bin" / "python"), _site_packages(into)
    (packages / INHERITED).write_text(_inherited(), encoding="utf-8")
    if requirements is not None:
        await _pip(name, python, "-U", "--upgrade-strategy", "only-if-needed", "-r", str(requirements))
    return Packages(python, str(packages))


def _site_packages(environment: Path) -> Path:
    return environment / sysconfig.get_path("purelib", vars={"base": ""}).lstrip("/")


def _inherited() -> str:
    """Return a `.pth` file that adds the server's packages; pip counts what is there as installed."""
    places = [entry for entry in sys.path if entry.endswith(("site-packages", "dist-packages"))]
    return "".join(f"import site; site.addsitedir({place!r})\n" for place in places)


async def _pip(name: str, python: str, *arguments: str) -> None:
    failure = f"Custom pip package installation failed for model {name}"
    await _run(failure, python, "-m", "pip", "install", "--disable-pip-version-check", *arguments)


async def _run(failure: str, *command: str) -> None:
    """Run `command`, which a cancellation kills. Raises `InvalidModelError` with `failure`."""
    ended = await trio.run_process(
        command,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_stdout=True,
        stderr=subprocess.STDOUT,
    )
    if ended.returncode:
        log.error("%s:\n%s", failure, ended.stdout.decode(errors="replace"))
        raise InvalidModelError(failure)
