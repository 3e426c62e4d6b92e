"""Items of an encoded call become the named tuples that are asked for, and equal headers one object."""

from __future__ import annotations

import gc
import sys
import uuid

import pytest

from wfserve import _native
from wfserve.transport.base import Descriptor
from wfserve.transport.frame import HEADER_SIZE
from wfserve.transport.message import Call, CallItem, Ref, call_size, encode_call

START = call_size(Call((), Descriptor(0, 0, 0)))


def ref(number: int) -> Ref:
    return Ref(bytes([number]) * HEADER_SIZE, Descriptor(number, 2**64 - 1, number))


def item(*inputs: int) -> CallItem:
    return CallItem(str(uuid.uuid4()), ref(0), tuple((index, ref(index)) for index in inputs))


def encoded(*items: CallItem) -> bytes:
    data = bytearray(call_size(Call(items, Descriptor(0, 0, 0))))
    encode_call(Call(items, Descriptor(0, 0, 0)), memoryview(data))
    return bytes(data)


def test_items_are_what_they_were() -> None:
    items = (item(), item(1, 2, 3), item(2**8 - 1))
    assert _native.decode_items(encoded(*items), START, 3, CallItem) == items
    decoded = _native.decode_items(encoded(*items), START, 3, CallItem)
    assert {type(each) for each in decoded} == {CallItem}
    assert {type(each.headers) for each in decoded} == {Ref}


def test_equal_headers_are_one_object() -> None:
    """The second is looked up by a hash that is known; more of a kind than are remembered stay right."""
    alike = _native.decode_items(encoded(*[item(1)] * 3), START, 3, CallItem)
    assert len({id(each.inputs[0][1].header) for each in alike}) == 1
    assert len({id(each.headers.header) for each in alike}) == 1
    many = item(*range(1, 9), *range(1, 9))
    assert _native.decode_items(encoded(many), START, 1, CallItem) == (many,)


@pytest.mark.parametrize(("start", "count"), [(START, 2), (START, 0), (START + 1, 1), (2**20, 0), (0, 2**60)])
def test_what_is_not_exactly_that_is_refused(start: int, count: int) -> None:
    with pytest.raises(ValueError, match="A message"):
        _native.decode_items(encoded(item(1)), start, count, CallItem)


def test_only_tuples_can_be_made() -> None:
    with pytest.raises(TypeError, match="named tuples"):
        _native.decode_items(encoded(item(1)), START, 1, list)  # type: ignore[arg-type]


def test_nothing_is_left_behind() -> None:
    """Neither by what is returned nor by what is refused half-way."""
    data = encoded(*[item(1, 2)] * 4)
    counts = []
    for _ in range(3):
        for _ in range(50):
            _native.decode_items(data, START, 4, CallItem)
            with pytest.raises(ValueError, match="cut short"):
                _native.decode_items(data[:-1], START, 4, CallItem)
        gc.collect()
        counts.append((sys.getrefcount(data), sys.getrefcount(CallItem), sys.getrefcount(Ref)))
    assert counts[1] == counts[2]
