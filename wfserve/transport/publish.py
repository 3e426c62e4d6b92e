"""Bytes become a payload in one copy, or nothing of them is left in the arena."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfserve.transport.frame import Kind, pack_header

if TYPE_CHECKING:
    from wfserve.transport.base import Lender, Loan, Payload


def publish(lender: Lender, data: bytes | bytearray, kind: Kind = Kind.BYTES) -> Payload:
    """Return `data` as a payload. Raises `ServiceUnavailableError` if there is no memory for it."""
    return lender.publish(pack_header(kind, len(data)), data)


def published(loan: Loan, header: bytes, data: bytes | bytearray) -> Payload:
    """Return a copy of `data` in a loan, which is at least as long, and release the loan."""
    try:
        loan.buffer[: len(data)] = data
        return loan.publish(header, 0, len(data))
    finally:
        loan.release()
