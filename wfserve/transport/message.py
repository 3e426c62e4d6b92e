"""Call and reply bodies are plain structures in lent memory; decoding believes nothing it reads.

A ring entry only points at a body. Bodies name payloads by `Ref`, never contain them. The server decodes
what children wrote and children decode what the server wrote with the same checks: anything out of bounds
is a `FrameError`. Integers are little-endian and unaligned.

    call     count, extent, steps, direct, form, place, then an item: id (16), headers, inputs,
             (index, ref) each
    reply    results, kept, ran, then a result: VALUE, ref, response
                                              | FAULT, code, splittable, step, kind, text, reached
                                              | DIVIDED, count, ref each
             then the kept descriptors, then for each step that ran: busy, items, copies, metrics
    passed   count, then (item, ref) each
    failure  code, step, message

What there is of each item crosses in one native call for all of them: the items of a call, the values of a
reply, what has passed. `encode_call`, `_encode_result`, `_decode_result` and `decode_passed` say the same of
one at a time; tests hold the two together. What is said of each step is read so as well.
"""

from __future__ import annotations

import enum
import struct
from typing import TYPE_CHECKING, Final, NamedTuple

from wfserve import _native
from wfserve.errors import FrameError
from wfserve.transport.base import Descriptor
from wfserve.transport.base import Ref as Ref
from wfserve.transport.frame import HEADER_SIZE
from wfserve.transport.reader import Reader

if TYPE_CHECKING:
    from collections.abc import Sequence

MAX_RESPONSE_BYTES: Final = 64 * 1024  # status, content type and headers that a handler set
MAX_METRICS_BYTES: Final = 64 * 1024  # what a handler recorded in one batch
MAX_TEXT_BYTES: Final = 4096  # of a fault's message
MAX_KIND_BYTES: Final = 64  # of a fault's kind
MAX_STEPS: Final = 255  # of a stage: nodes that one worker runs one after the other

_REF: Final = f"{HEADER_SIZE}sIQQ"  # header, then the descriptor: segment, offset, length
_CALL: Final = struct.Struct("<IIQQIBB?B")
_UUID_BYTES: Final = 16
_ITEM: Final = struct.Struct(f"<{_UUID_BYTES}s{_REF}I")
_INPUT: Final = struct.Struct(f"<I{_REF}")
_REPLY: Final = struct.Struct("<IIB")
_VALUE: Final = struct.Struct(f"<B{_REF}I")
_FAULT: Final = struct.Struct("<BI?BII?")
_REACHED: Final = struct.Struct(f"<{_REF}")
_DIVIDED: Final = struct.Struct("<BI")
_KEPT: Final = struct.Struct("<IQQ")
_RAN: Final = struct.Struct("<QIII")
_PASSED: Final = struct.Struct("<I")
_FAILURE: Final = struct.Struct("<IBI")
_TAG_VALUE: Final = 1
_TAG_FAULT: Final = 2
_TAG_DIVIDED: Final = 3


class CallItem(NamedTuple):
    """One item of a batch."""

    request_id: str  # a UUID's 36 characters, lower case
    headers: Ref  # a JSON list of [name, value]
    inputs: tuple[tuple[int, Ref], ...]  # (index of the parent node, what it returned)


class Form(enum.IntEnum):
    """What an item is of a node's input, where that may be many rows: of the form `[N, *input-shape]`."""

    WHOLE = 0
    DIVISIBLE = 1  # all of it, but the worker may divide it into parts instead
    PART = 2  # some rows; what they become is not yet a result
    JOINED = 3  # what the parts have become, in order, to be put together


_FORMS: Final = frozenset(form.value for form in Form)


class Call(NamedTuple):
    """A batch for a child, and the extent its results and its reply may be written to."""

    items: tuple[CallItem, ...]
    extent: Descriptor
    first: int = 0  # step of the stage that the items begin with
    last: int = 0  # and end with
    direct: bool = False  # clients' bodies, whatever the node's parents; the results go to clients
    form: Form = Form.WHOLE
    place: bytes = b""  # `child.spec.Place` of the node that it is for, where several share the worker


class Value(NamedTuple):
    """What a node returned for one item, and what its handler set on the response (JSON, may be empty)."""

    ref: Ref
    response: bytes = b""


class Fault(NamedTuple):
    """What went wrong for one item; texts are cut at `MAX_KIND_BYTES` and `MAX_TEXT_BYTES`."""

    code: int  # an HTTP status; what is not three digits is sent as 500
    kind: str
    message: str
    splittable: bool = True  # the whole batch failed as one
    step: int = 0  # of the stage, that failed
    reached: Ref | None = None  # the input of that step, where it is not the call's


class Ran(NamedTuple):
    """What one step took, and what it recorded."""

    busy_ns: int = 0  # from its first item's decoding to its last result
    items: int = 0
    metrics: bytes = b""  # what the handler recorded: JSON, or empty
    copies: int = 0  # made of the items' inputs on their way to the handler


class Divided(NamedTuple):
    """The parts that an input was divided into, rather than run."""

    parts: tuple[Ref, ...]


Result = Value | Fault | Divided


class Reply(NamedTuple):
    """A result for every item of a call, in order."""

    results: tuple[Result, ...]
    kept: tuple[Descriptor, ...] = ()  # inputs of steps still looked at; a RELEASE follows for each
    ran: tuple[Ran, ...] = ()  # from the call's first step on


class LoadFailure(NamedTuple):
    """Why a handler could not be loaded; the message is cut at `MAX_TEXT_BYTES`."""

    code: int
    message: str
    step: int = 0  # of the stage, whose handler it is


def call_size(call: Call) -> int:
    """Return the bytes `encode_call` will write."""
    inputs = sum(len(item.inputs) for item in call.items)
    return _CALL.size + len(call.place) + _ITEM.size * len(call.items) + _INPUT.size * inputs


def encode_call(call: Call, view: memoryview) -> int:
    """Write `call` at the start of `view` and return its length.

    Raises `ValueError` if a request id is no UUID, `struct.error` if `view` is too short.
    """
    end = _put(view, 0, encode_call_head(len(call.items), *call[1:]))
    pack_item, pack_input = _ITEM.pack_into, _INPUT.pack_into
    for request_id, (header, where), inputs in call.items:
        number = bytes.fromhex(request_id.replace("-", ""))
        if len(number) != _UUID_BYTES:
            raise ValueError(f"{request_id!r} is no UUID")
        pack_item(view, end, number, header, *where, len(inputs))
        end += _ITEM.size
        for index, (input_header, input_place) in inputs:
            pack_input(view, end, index, input_header, *input_place)
            end += _INPUT.size
    return end


def encode_call_head(
    count: int, extent: Descriptor, first: int, last: int, direct: bool, form: Form, place: bytes
) -> bytes:
    """Return what precedes the items of a call, of which there are `count`."""
    return _CALL.pack(count, *extent, len(place), first, last, direct, form) + place


def decode_call(view: memoryview) -> Call:
    """Return the call in `view`; raises `FrameError` if it is not exactly one."""
    data = bytes(view)
    try:
        count, segment, offset, length, size, first, last, direct, form = _CALL.unpack_from(data)
        begin = _CALL.size + size
        items = _native.decode_items(data, begin, count, CallItem)
    except (struct.error, ValueError) as problem:
        raise FrameError(f"What should be a call is none: {problem}") from None
    if form not in _FORMS:
        raise FrameError(f"A call has no items of form {form}")
    extent, place = Descriptor(segment, offset, length), data[_CALL.size : begin]
    return Call(items, extent, first, last, direct, Form(form), place)


def reply_size(reply: Reply) -> int:
    """Return the bytes `encode_reply` will write at most."""
    size = _REPLY.size + _KEPT.size * len(reply.kept) + _RAN.size * len(reply.ran)
    for ran in reply.ran:
        size += len(ran.metrics)
    return size + sum(map(result_size, reply.results))


def result_size(result: Result) -> int:
    """Return the bytes that a result takes of a reply at most."""
    if isinstance(result, Value):
        return _VALUE.size + len(result.response)
    if isinstance(result, Divided):
        return divided_size(len(result.parts))
    return _FAULT.size + _REACHED.size + MAX_KIND_BYTES + _text_bound(result.message)


def value_size(response: bytes) -> int:
    """Return the bytes that a value with this response takes of a reply."""
    return _VALUE.size + len(response)


def divided_size(parts: int) -> int:
    """Return the bytes that an input divided into so many parts takes of a reply."""
    return _DIVIDED.size + _REACHED.size * parts


def encode_reply(reply: Reply, view: memoryview) -> int:
    """Write `reply` at the start of `view` and return its length.

    Raises `ValueError` if a response is longer than `MAX_RESPONSE_BYTES`, the metrics are longer than
    `MAX_METRICS_BYTES`, or `view` is too short for a text; `struct.error` if `view` is too short.
    """
    _REPLY.pack_into(view, 0, len(reply.results), len(reply.kept), len(reply.ran))
    values, count = _native.encode_values(reply.results, MAX_RESPONSE_BYTES, Value)
    end = _put(view, _REPLY.size, values)
    for result in reply.results[count:]:
        end = _encode_result(result, view, end)
    for place in reply.kept:
        _KEPT.pack_into(view, end, *place)
        end += _KEPT.size
    for busy_ns, items, metrics, copies in reply.ran:
        if len(metrics) > MAX_METRICS_BYTES:
            raise ValueError(f"What a handler records in a batch is limited to {MAX_METRICS_BYTES} bytes")
        _RAN.pack_into(view, end, busy_ns, items, copies, len(metrics))
        end = _put(view, end + _RAN.size, metrics)
    return end


def _encode_result(result: Result, view: memoryview, at: int) -> int:
    if isinstance(result, Value):
        (header, place), response = result
        if len(response) > MAX_RESPONSE_BYTES:
            raise ValueError(f"What a handler sets on a response is limited to {MAX_RESPONSE_BYTES} bytes")
        _VALUE.pack_into(view, at, _TAG_VALUE, header, *place, len(response))
        return _put(view, at + _VALUE.size, response)
    if isinstance(result, Divided):
        return _encode_divided(result, view, at)
    return _encode_fault(result, view, at)


def _encode_divided(divided: Divided, view: memoryview, at: int) -> int:
    _DIVIDED.pack_into(view, at, _TAG_DIVIDED, len(divided.parts))
    at += _DIVIDED.size
    for header, place in divided.parts:
        _REACHED.pack_into(view, at, header, *place)
        at += _REACHED.size
    return at


def _encode_fault(fault: Fault, view: memoryview, at: int) -> int:
    kind, message = _cut(fault.kind, MAX_KIND_BYTES), _cut(fault.message, MAX_TEXT_BYTES)
    code, reached = _status(fault.code), fault.reached
    sizes = len(kind), len(message)
    _FAULT.pack_into(view, at, _TAG_FAULT, code, fault.splittable, fault.step, *sizes, reached is not None)
    end = _put(view, _put(view, at + _FAULT.size, kind), message)
    if reached is not None:
        _REACHED.pack_into(view, end, reached.header, *reached.descriptor)
        end += _REACHED.size
    return end


def decode_reply(view: memoryview) -> Reply:
    """Return the reply in `view`; raises `FrameError` if it is not exactly one.

    Headers and descriptors are as the child wrote them: whoever uses one checks it.
    """
    reader = Reader(view)
    count, kept, steps = reader.take(_REPLY)
    reader.times(count, _DIVIDED.size)
    values = reader.leading(_native.decode_values, count, MAX_RESPONSE_BYTES, Value)
    results = (*values, *[_decode_result(reader) for _ in range(count - len(values))])
    places = tuple([Descriptor(*reader.take(_KEPT)) for _ in reader.times(kept, _KEPT.size)])
    ran = tuple(reader.leading(_native.decode_ran, steps, MAX_METRICS_BYTES, Ran))
    reader.finish()
    return Reply(results, places, ran)


def _decode_result(reader: Reader) -> Result:
    tag = reader.peek()
    if tag == _TAG_VALUE:
        _, header, segment, offset, length, size = reader.take(_VALUE)
        if size > MAX_RESPONSE_BYTES:
            raise FrameError("A response is longer than its limit")
        return Value(Ref(header, Descriptor(segment, offset, length)), reader.raw(size))
    if tag == _TAG_FAULT:
        _, code, splittable, step, kind, message, has_reached = reader.take(_FAULT)
        texts = reader.text(kind, MAX_KIND_BYTES), reader.text(message, MAX_TEXT_BYTES)
        reached = _decode_ref(reader) if has_reached else None
        return Fault(_checked_status(code), *texts, splittable, step, reached)
    if tag == _TAG_DIVIDED:
        _, count = reader.take(_DIVIDED)
        return Divided(tuple([_decode_ref(reader) for _ in reader.times(count, _REACHED.size)]))
    raise FrameError(f"A reply has no results of kind {tag}")


def _decode_ref(reader: Reader) -> Ref:
    header, *place = reader.take(_REACHED)
    return Ref(header, Descriptor(*place))


def passed_size(count: int) -> int:
    """Return the bytes `encode_passed` will write for `count` items."""
    return _PASSED.size + _INPUT.size * count


def encode_passed(passed: Sequence[tuple[int, Ref]], view: memoryview) -> int:
    """Write which items of a call have reached a step, and its input of each; return the length."""
    return _put(view, 0, _native.encode_passed(passed))


def decode_passed(view: memoryview) -> list[tuple[int, Ref]]:
    """Return what `encode_passed` wrote; raises `FrameError` if `view` is not exactly that."""
    reader = Reader(view)
    (count,) = reader.take(_PASSED)
    passed = []
    for _ in reader.times(count, _INPUT.size):
        item, header, *place = reader.take(_INPUT)
        passed.append((item, Ref(header, Descriptor(*place))))
    reader.finish()
    return passed


def load_failure_size(failure: LoadFailure) -> int:
    """Return the bytes `encode_load_failure` will write at most."""
    return _FAILURE.size + _text_bound(failure.message)


def encode_load_failure(failure: LoadFailure, view: memoryview) -> int:
    """Write `failure` at the start of `view` and return its length.

    Raises `struct.error` or `ValueError` if `view` is too short.
    """
    message = _cut(failure.message, MAX_TEXT_BYTES)
    _FAILURE.pack_into(view, 0, _status(failure.code), failure.step, len(message))
    return _put(view, _FAILURE.size, message)


def decode_load_failure(view: memoryview) -> LoadFailure:
    """Return the failure in `view`; raises `FrameError` if it is not exactly one."""
    reader = Reader(view)
    code, step, size = reader.take(_FAILURE)
    failure = LoadFailure(_checked_status(code), reader.text(size, MAX_TEXT_BYTES), step)
    reader.finish()
    return failure


def _put(view: memoryview, at: int, data: bytes) -> int:
    end = at + len(data)
    view[at:end] = data
    return end


def _cut(text: str, limit: int) -> bytes:
    """Return at most `limit` bytes of UTF-8, whole characters only; lone surrogates become `?`."""
    data = text[:limit].encode(errors="replace")
    return data if len(data) <= limit else data[:limit].decode(errors="ignore").encode()


def _text_bound(text: str) -> int:
    return min(4 * len(text), MAX_TEXT_BYTES)


def _status(code: int) -> int:
    return code if 100 <= code <= 999 else 500


def _checked_status(code: int) -> int:
    if _status(code) != code:
        raise FrameError(f"{code} is not a status")
    return code
