"""What several tests build: payloads in a real arena of the in-process transport."""

from wfserve.transport.base import Payload
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.publish import publish
from wfserve.workers.base import Item


def payload(transport: MemoryTransport, data: bytes) -> Payload:
    return publish(transport.arena, data)


def tensor(transport: MemoryTransport, data: bytes, shape: tuple[int, ...]) -> Payload:
    """`data` as elements of one byte."""
    loan = transport.arena.loan(max(1, len(data)))
    loan.buffer[: len(data)] = data
    made = loan.publish(pack_header(Kind.TENSOR, len(data), "uint8", shape), 0, len(data))
    loan.release()
    return made


def item(transport: MemoryTransport, data: bytes = b"body", shape: tuple[int, ...] | None = None) -> Item:
    """An item with payloads of its own, which its `release` gives back."""
    given = payload(transport, data) if shape is None else tensor(transport, data, shape)
    return Item("00000000-0000-4000-8000-000000000000", payload(transport, b"[]"), ((0, given),))


def release(*items: Item) -> None:
    for each in items:
        each.headers.release()
        for _, given in each.inputs:
            given.release()


def text(given: Payload) -> str:
    return bytes(given.borrow()).decode()
