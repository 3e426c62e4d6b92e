"""The values of a reply are written and read at once as `message` does it one by one."""

from __future__ import annotations

import contextlib
import sys

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve import _native
from wfserve.transport import message
from wfserve.transport.base import Descriptor
from wfserve.transport.frame import HEADER_SIZE
from wfserve.transport.message import Fault, Ran, Ref, Reply, Result, Value
from wfserve.transport.reader import Reader

LONGEST = 1000

u32, u64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
headers = st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE)
refs = st.builds(Ref, headers | st.just(bytes(HEADER_SIZE)), st.builds(Descriptor, u32, u64, u64))
values = st.builds(Value, refs, st.binary(max_size=20))
results = st.lists(values | st.just(Fault(500, "kind", "message")), max_size=6)
ONE = Value(Ref(bytes(HEADER_SIZE), Descriptor(1, 2, 3)), b"said")


def readable(entries: list[Result]) -> bytes:
    """Write results one by one."""
    view = memoryview(bytearray(sum(map(message.result_size, entries))))
    end = 0
    for entry in entries:
        end = message._encode_result(entry, view, end)
    return bytes(view[:end])


@given(results)
def test_both_write_the_same(entries: list[Result]) -> None:
    data, count = _native.encode_values(entries, LONGEST, Value)
    kinds = [*map(type, entries), Fault]
    assert count == kinds.index(Fault)
    assert data == readable(entries[:count])


@given(results, st.binary(max_size=9))
def test_both_read_the_same(entries: list[Result], before: bytes) -> None:
    data = before + readable(entries)
    found, end = _native.decode_values(data, len(before), len(entries), LONGEST, Value)
    reader = Reader(memoryview(data)[len(before) :])
    assert found == [message._decode_result(reader) for _ in found]
    assert {type(each) for each in found} <= {Value}
    assert end == len(before) + reader._at
    assert entries[len(found) :][:1] == [each for each in entries if isinstance(each, Fault)][:1]


@given(st.binary(max_size=400), st.integers(0, 500), st.integers(0, 2**64 - 1))
def test_whatever_a_child_wrote(data: bytes, start: int, count: int) -> None:
    for noise in (data, b"\1" + data, readable([ONE]) + data):
        try:
            found, end = _native.decode_values(noise, start, count, LONGEST, Value)
        except ValueError:
            continue
        assert len(found) <= count
        assert start <= end <= len(noise)


@pytest.mark.parametrize("cut", range(1, len(readable([ONE])) + 1))
def test_what_is_cut_short(cut: int) -> None:
    with pytest.raises(ValueError, match="cut short"):
        _native.decode_values(readable([ONE, ONE])[:-cut], 0, 2, LONGEST, Value)


def test_a_response_has_a_limit() -> None:
    long = ONE._replace(response=bytes(LONGEST + 1))
    with pytest.raises(ValueError, match="limited"):
        _native.encode_values([ONE, long], LONGEST, Value)
    with pytest.raises(ValueError, match="limited"):
        _native.decode_values(readable([ONE, long]), 0, 2, LONGEST, Value)


@pytest.mark.parametrize("header", [b"", bytes(95), bytes(97)])
def test_a_header_has_its_size(header: bytes) -> None:
    with pytest.raises(ValueError, match="96 bytes"):
        _native.encode_values([ONE._replace(ref=Ref(header, ONE.ref.descriptor))], LONGEST, Value)


def test_nothing_is_left_behind() -> None:
    data, counts = readable([ONE, ONE]), []
    for _ in range(3):
        for _ in range(50):
            _native.encode_values([ONE, ONE], LONGEST, Value)
            _native.decode_values(data, 0, 2, LONGEST, Value)
            with pytest.raises(ValueError, match="cut short"):
                _native.decode_values(data[:-1], 0, 2, LONGEST, Value)
        counts.append((sys.getrefcount(data), sys.getrefcount(Value), sys.getrefcount(ONE.ref.header)))
    assert counts[1] == counts[2]


steps = st.lists(st.builds(Ran, u64, u32, st.binary(max_size=20), u32), max_size=4)


def said_of(ran: list[Ran]) -> bytes:
    """Write what is said of steps, which nothing follows."""
    reply = Reply((), (), tuple(ran))
    view = memoryview(bytearray(message.reply_size(reply)))
    return bytes(view[message._REPLY.size : message.encode_reply(reply, view)])


@given(steps, st.binary(max_size=9), st.binary(max_size=9))
def test_what_is_said_of_steps(ran: list[Ran], before: bytes, behind: bytes) -> None:
    said = before + said_of(ran)
    assert _native.decode_ran(said + behind, len(before), len(ran), LONGEST, Ran) == (ran, len(said))


@given(st.binary(max_size=100), st.integers(0, 120), st.integers(0, 2**64 - 1))
def test_whatever_a_child_says_of_steps(data: bytes, start: int, count: int) -> None:
    with contextlib.suppress(ValueError):
        found, end = _native.decode_ran(data, start, count, LONGEST, Ran)
        assert len(found) == count
        assert start <= end <= len(data)


def test_what_is_said_of_steps_is_not_cut_short_and_has_a_limit() -> None:
    said = said_of([Ran(1, 2, b"metrics", 3)])
    for cut in range(1, len(said) + 1):
        with pytest.raises(ValueError, match="cut short"):
            _native.decode_ran(said[:-cut], 0, 1, LONGEST, Ran)
    with pytest.raises(ValueError, match="limit"):
        _native.decode_ran(said, 0, 1, len(b"metrics") - 1, Ran)
