"""What one side encodes the other decodes; anything else is a FrameError."""

from __future__ import annotations

import struct
import uuid
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.errors import FrameError
from wfserve.transport import message
from wfserve.transport.base import NOWHERE, Descriptor
from wfserve.transport.frame import HEADER_SIZE
from wfserve.transport.message import (
    Call,
    CallItem,
    Divided,
    Fault,
    Form,
    LoadFailure,
    Ran,
    Ref,
    Reply,
    Value,
)

if TYPE_CHECKING:
    from collections.abc import Callable

u8, u32, u64 = st.integers(0, 255), st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
descriptors = st.builds(Descriptor, u32, u64, u64)
refs = st.builds(Ref, st.binary(min_size=HEADER_SIZE, max_size=HEADER_SIZE), descriptors)
items = st.builds(
    CallItem,
    st.uuids().map(str),
    refs,
    st.lists(st.tuples(u32, refs), max_size=3).map(tuple),
)
calls = st.builds(
    Call,
    st.lists(items, max_size=4).map(tuple),
    descriptors,
    u8,
    u8,
    st.booleans(),
    st.sampled_from(Form),
    st.binary(max_size=50),
)
values = st.builds(Value, refs, st.binary(max_size=100))
faults = st.builds(
    Fault,
    st.integers(100, 999),
    st.text(max_size=16),
    st.text(max_size=50),
    st.booleans(),
    u8,
    st.none() | refs,
)
divided = st.builds(Divided, st.lists(refs, max_size=4).map(tuple))
replies = st.builds(
    Reply,
    st.lists(values | faults | divided, max_size=4).map(tuple),
    st.lists(descriptors, max_size=3).map(tuple),
    st.lists(st.builds(Ran, u64, u32, st.binary(max_size=100), u32), max_size=3).map(tuple),
)
passed = st.lists(st.tuples(u32, refs), max_size=4)
failures = st.builds(LoadFailure, st.integers(100, 999), st.text(max_size=50), u8)

REF = Ref(bytes(HEADER_SIZE), NOWHERE)
CODECS: list[tuple[st.SearchStrategy[Any], Any, Any, Any]] = [
    (calls, message.call_size, message.encode_call, message.decode_call),
    (replies, message.reply_size, message.encode_reply, message.decode_reply),
    (passed, lambda found: message.passed_size(len(found)), message.encode_passed, message.decode_passed),
    (failures, message.load_failure_size, message.encode_load_failure, message.decode_load_failure),
]
each_codec = pytest.mark.parametrize(
    ("structures", "size", "encode", "decode"), CODECS, ids=["call", "reply", "passed", "load failure"]
)


def encoded(
    structure: Any, size: Callable[[Any], int], encode: Callable[[Any, memoryview], int]
) -> memoryview:
    view = memoryview(bytearray(size(structure)))
    return view[: encode(structure, view)]


def resent(fault: Fault) -> Fault:
    reply = message.decode_reply(encoded(Reply((fault,)), message.reply_size, message.encode_reply))
    (result,) = reply.results
    assert isinstance(result, Fault)
    return result


@each_codec
@given(data=st.data())
def test_round_trip(structures: Any, size: Any, encode: Any, decode: Any, data: st.DataObject) -> None:
    structure = data.draw(structures)
    assert decode(encoded(structure, size, encode)) == structure


@each_codec
@given(data=st.data())
def test_cut_short_or_followed_by_more(
    structures: Any, size: Any, encode: Any, decode: Any, data: st.DataObject
) -> None:
    view = encoded(data.draw(structures), size, encode)
    with pytest.raises(FrameError):
        decode(view[: data.draw(st.integers(0, len(view) - 1))])
    with pytest.raises(FrameError):
        decode(memoryview(bytes(view) + b"\0"))


@each_codec
@given(data=st.data())
def test_flipped_bytes_never_crash(
    structures: Any, size: Any, encode: Any, decode: Any, data: st.DataObject
) -> None:
    view = encoded(data.draw(structures), size, encode)
    for _ in range(data.draw(st.integers(1, 8))):
        view[data.draw(st.integers(0, len(view) - 1))] = data.draw(st.integers(0, 255))
    try:
        structure = decode(view)
    except FrameError:
        return
    assert decode(encoded(structure, size, encode)) == structure


@each_codec
@given(garbage=st.binary(max_size=400))
def test_garbage_never_crashes(structures: Any, size: Any, encode: Any, decode: Any, garbage: bytes) -> None:
    try:
        structure = decode(memoryview(garbage))
    except FrameError:
        return
    assert size(structure) >= len(garbage) or structure == decode(memoryview(garbage))


@each_codec
@given(data=st.data())
def test_a_short_view_is_not_written_past(
    structures: Any, size: Any, encode: Any, decode: Any, data: st.DataObject
) -> None:
    structure = data.draw(structures)
    needed = len(encoded(structure, size, encode))
    memory = bytearray(needed + 64)
    with pytest.raises((struct.error, ValueError)):
        encode(structure, memoryview(memory)[: needed - 1])
    assert not any(memory[needed - 1 :])


def test_a_huge_count_is_refused_before_it_is_believed() -> None:
    with pytest.raises(FrameError):
        message.decode_call(memoryview(struct.pack("<IIQQBB?", 2**32 - 1, 0, 0, 0, 0, 0, False)))
    with pytest.raises(FrameError):
        message.decode_reply(memoryview(struct.pack("<IIB", 0, 2**32 - 1, 0)))


@pytest.mark.parametrize("request_id", ["", "7", "x" * 36, "a" * 36])
def test_a_request_id_is_a_uuid(request_id: str) -> None:
    call = Call((CallItem(request_id, REF, ()),), NOWHERE)
    with pytest.raises(ValueError, match=r"UUID|hexadecimal"):
        encoded(call, message.call_size, message.encode_call)


def test_a_request_id_takes_16_bytes() -> None:
    one = Call((CallItem(str(uuid.uuid4()), REF, ()),), NOWHERE)
    assert message.call_size(one) - message.call_size(Call((), NOWHERE)) == 16 + HEADER_SIZE + 4 + 8 + 8 + 4


@pytest.mark.parametrize(("character", "kept"), [("a", 4096), ("é", 2048), ("€", 1365), ("🙂", 1024)])
def test_long_texts_are_cut_between_characters(character: str, kept: int) -> None:
    fault = resent(Fault(503, "K" * 100, character * 5000))
    assert fault.message == character * kept
    assert fault.kind == "K" * message.MAX_KIND_BYTES


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert resent(Fault(503, "E", "bad \ud800 text")).message == "bad ? text"


def test_a_form_that_is_none() -> None:
    view = encoded(Call((), NOWHERE), message.call_size, message.encode_call)
    view[-1] = len(Form)
    with pytest.raises(FrameError, match="form"):
        message.decode_call(view)


@pytest.mark.parametrize("code", [0, -1, 99, 1000, 2**40])
def test_what_is_no_status_is_sent_as_500(code: int) -> None:
    assert resent(Fault(code, "E", "m")).code == 500


def test_a_response_has_a_limit() -> None:
    longest = Reply((Value(REF, bytes(message.MAX_RESPONSE_BYTES)),))
    assert message.decode_reply(encoded(longest, message.reply_size, message.encode_reply)) == longest
    with pytest.raises(ValueError, match="limited"):
        encoded(
            Reply((Value(REF, bytes(message.MAX_RESPONSE_BYTES + 1)),)),
            message.reply_size,
            message.encode_reply,
        )


def test_metrics_have_a_limit_on_either_side() -> None:
    longest = Reply((), ran=(Ran(metrics=bytes(message.MAX_METRICS_BYTES)),))
    sent = encoded(longest, message.reply_size, message.encode_reply)
    assert message.decode_reply(sent) == longest
    longer = Reply((), ran=(Ran(metrics=bytes(message.MAX_METRICS_BYTES + 1)),))
    with pytest.raises(ValueError, match="limited"):
        encoded(longer, message.reply_size, message.encode_reply)
    forged = struct.pack("<IIBQIII", 0, 0, 1, 0, 0, 0, message.MAX_METRICS_BYTES + 1)
    with pytest.raises(FrameError, match="limit"):
        message.decode_reply(memoryview(forged + bytes(message.MAX_METRICS_BYTES + 1)))
