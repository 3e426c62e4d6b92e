"""Bytes become a payload in one copy, or nothing of them is left in the arena."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfserve.transport.frame import Kind, pack_header

if TYPE_CHECKING:
    from wfserve.transport.base import Lender, Payload


def publish(lender: Lender, data: bytes | bytearray, kind: Kind = Kind.BYTES) -> Payload:
    """Return `data` as a payload. Raises `ServiceUnavailableError` if there is no memory for it."""
    loan = lender.loan(max(1, len(data)))
    try:
        loan.buffer[: len(data)] = data
        return loan.publish(pack_header(kind, len(data)), 0, len(data))
    finally:
        loan.release()
