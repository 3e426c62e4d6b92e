"""What is unpacked lies in directories of its own below `work`, each gone when what needs it has ended.

work/<random>/   what was unpacked of one version, or of one archive that several share
"""

from __future__ import annotations

import shutil
import uuid
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from pathlib import Path

WORK = "work"


def fresh(work: Path) -> Path:
    """Return a new directory below `work`. Raises `OSError`."""
    directory = work / uuid.uuid4().hex
    directory.mkdir(parents=True)
    return directory


async def remove(directory: Path) -> None:
    """Remove a directory with all that is in it, if it is there, whoever is cancelled meanwhile."""
    with trio.CancelScope(shield=True):
        await trio.to_thread.run_sync(lambda: shutil.rmtree(directory, ignore_errors=True))
