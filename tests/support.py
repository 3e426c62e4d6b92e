"""What several tests build: payloads in a real arena of the in-process transport."""

from wfserve.transport.base import Payload
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.publish import publish
from wfserve.workers.base import Item


def payload(transport: MemoryTransport, data: bytes) -> Payload:
    return publish(transport.arena, data)


def item(transport: MemoryTransport, data: bytes = b"body") -> Item:
    """An item with payloads of its own, which its `release` gives back."""
    return Item(
        "00000000-0000-4000-8000-000000000000", payload(transport, b"[]"), ((0, payload(transport, data)),)
    )


def release(*items: Item) -> None:
    for each in items:
        each.headers.release()
        for _, given in each.inputs:
            given.release()


def text(given: Payload) -> str:
    return bytes(given.borrow()).decode()
