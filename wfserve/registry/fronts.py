"""What a registry says to the front ends that answer requests on its workers; most servers have none."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

if TYPE_CHECKING:
    from wfserve.measure.family import Family


class Fronts(Protocol):
    """The front ends of one server."""

    def announce(self, name: str) -> None:
        """Have them serve what the registry serves as `name` from now on; never blocks."""

    async def told(self) -> None:
        """Return when all that has been announced is so at each of them. Bounded in time."""

    async def families(self) -> list[list[Family]]:
        """Return what each of them has counted."""


class _NoFronts:
    """One process answers requests and keeps workers."""

    def announce(self, name: str) -> None:
        """Do nothing: who serves `name` has done so."""

    async def told(self) -> None:
        """Return at the next checkpoint."""
        await trio.lowlevel.checkpoint()

    async def families(self) -> list[list[Family]]:
        """Return nothing."""
        await trio.lowlevel.checkpoint()
        return []


NO_FRONTS = _NoFronts()
