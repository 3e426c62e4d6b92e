"""A call's items are encoded as `message.encode_call` does it, in the order in which their inputs lie."""

from __future__ import annotations

import sys
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve import _native
from wfserve.transport.base import Descriptor
from wfserve.transport.frame import HEADER_SIZE
from wfserve.transport.message import Call, CallItem, Ref, call_size, encode_call
from wfserve.transport.shm import ShmTransport
from wfserve.workers.base import Item

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.transport.base import Payload

NOWHERE = Descriptor(0, 0, 0)
START = call_size(Call((), NOWHERE))


class Plain:
    """A payload of an arena in this process."""

    def __init__(self, header: bytes, descriptor: Descriptor) -> None:
        self.header, self.descriptor = header, descriptor
        self.shares: list[Plain] = []

    def share(self) -> Plain:
        self.shares.append(Plain(self.header, self.descriptor))
        return self.shares[-1]


def readable(items: Sequence[Item]) -> bytes:
    """Encode items one by one, in the order given."""
    refs = [
        CallItem(
            item.request_id,
            Ref(item.headers.header, item.headers.descriptor),
            tuple((parent, Ref(each.header, each.descriptor)) for parent, each in item.inputs),
        )
        for item in items
    ]
    call = Call(tuple(refs), NOWHERE)
    data = bytearray(call_size(call))
    encode_call(call, memoryview(data))
    return bytes(data[START:])


u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
payloads = st.builds(
    Plain, st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), st.builds(Descriptor, u32, u64, u64)
)


def items_of(inputs: st.SearchStrategy[Any]) -> st.SearchStrategy[list[Item]]:
    return st.lists(st.builds(Item, st.uuids().map(str), payloads, inputs), max_size=5)


@given(items_of(st.lists(st.tuples(u32, payloads), max_size=3).map(tuple)))
def test_the_bytes_are_those_of_the_readable_encoding(items: list[Item]) -> None:
    inputs: list[Payload] = []
    headers: list[Payload] = []
    body, order = _native.encode_items(items, inputs, headers)
    assert body == readable([items[number] for number in order])
    assert sorted(order) == list(range(len(items)))
    assert headers == [share for item in items for share in item.headers.shares]
    assert inputs == [share for item in items for _, each in item.inputs for share in each.shares]


@given(items_of(st.tuples(st.tuples(u32, payloads))))
def test_the_order_is_that_of_memory(items: list[Item]) -> None:
    _, order = _native.encode_items(items, [], [])
    assert order == sorted(range(len(items)), key=lambda number: items[number].inputs[0][1].descriptor)


def test_payloads_of_shared_memory_are_shared() -> None:
    with ShmTransport(1 << 20) as transport:
        loan = transport.arena.loan(100)
        second, first = loan.publish(b"s" * HEADER_SIZE, 50, 50), loan.publish(b"f" * HEADER_SIZE, 0, 50)
        items = [Item(str(uuid.uuid4()), first, ((0, each),)) for each in (second, first)]
        inputs: list[Payload] = []
        headers: list[Payload] = []
        body, order = _native.encode_items(items, inputs, headers)
        assert order == [1, 0]
        assert body == readable(items[::-1])
        for handle in (loan, first, second):
            handle.release()
        assert [each.descriptor.length for each in (*inputs, *headers)] == [50] * 4
        assert transport.arena.statistics().slots == 1
        for handle in (*inputs, *headers):
            handle.release()
        assert transport.arena.statistics().slots == 0


def test_what_was_shared_before_a_failure_is_known() -> None:
    good, released = Plain(b"h" * HEADER_SIZE, NOWHERE), ShmTransport(1 << 16).arena.publish(bytes(96), b"")
    released.release()
    items = [Item(str(uuid.uuid4()), good, ((0, good),)), Item(str(uuid.uuid4()), good, ((0, released),))]
    inputs: list[Payload] = []
    headers: list[Payload] = []
    with pytest.raises(ValueError, match="released"):
        _native.encode_items(items, inputs, headers)
    assert (len(inputs), len(headers)) == (1, 2)
    assert [*inputs, *headers] == [good.shares[1], good.shares[0], good.shares[2]]


@pytest.mark.parametrize("request_id", ["", "no", "g" * 32, "a" * 31, "a" * 33, "a" * 32 + "\0", "ü" * 16])
def test_a_request_id_is_a_uuid(request_id: str) -> None:
    with pytest.raises(ValueError, match="UUID"):
        _native.encode_items([Item(request_id, Plain(bytes(96), NOWHERE), ())], [], [])


@pytest.mark.parametrize("size", [0, 95, 97])
def test_a_header_has_its_size(size: int) -> None:
    with pytest.raises(ValueError, match="96 bytes"):
        _native.encode_items([Item(str(uuid.uuid4()), Plain(bytes(size), NOWHERE), ())], [], [])


def test_nothing_is_left_behind() -> None:
    payload, counts = Plain(bytes(96), Descriptor(1, 2, 3)), []
    items = [Item(str(uuid.uuid4()), payload, ((7, payload),)) for _ in range(3)]
    for _ in range(3):
        for _ in range(50):
            _native.encode_items(items, [], [])
            payload.shares.clear()
        counts.append((sys.getrefcount(payload), sys.getrefcount(payload.header), sys.getrefcount(items[0])))
    assert counts[1] == counts[2]
