"""The bodies of a workflow's requests lie where they are read: in neighbouring rows, or pinned for a GPU."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfserve.transport.pinned import FirstWithRoom
from wfserve.transport.slab import Slabs

if TYPE_CHECKING:
    from wfserve.registry.prepare import Blueprint
    from wfserve.transport.base import Lender, Loan, Payload, Transport


class Bodies:
    """Lends memory for bodies where they will be read: neighbouring rows, or pinned for a GPU."""

    def __init__(self, blueprint: Blueprint, transport: Transport) -> None:
        batch, row = blueprint.batch_of_bodies(), blueprint.nodes[blueprint.graph.start].worker.row_bytes
        self._slabs = Slabs(transport.arena, batch, row) if batch > 1 else None
        self._lender: Lender = self._slabs or transport.arena
        if blueprint.pins_bodies and transport.pinned is not None:
            self._lender = FirstWithRoom([transport.pinned, self._lender])

    def loan(self, nbytes: int) -> Loan:
        """Return at least `nbytes`. Raises `ServiceUnavailableError` when there are no more."""
        return self._lender.loan(nbytes)

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Return a copy of `data` as a payload. Raises `ServiceUnavailableError` when there is no room."""
        return self._lender.publish(header, data)

    def rest(self) -> None:
        """Hold nothing: no request is under way."""
        if self._slabs is not None:
            self._slabs.rest()
