"""How far a worker is with its batch, written by it into its scratch memory and read by the server at will.

    word      step (8 bits), low bits of the batch's tag (8), item (16), milliseconds of the clock (32)
    withdrawn tag of the batch that need not begin any more: the one word here that the server writes
    records   one for odd and one for even steps: tag, step, and where what `encode_passed` wrote lies

Nobody is woken by it: the server looks when a timer rings or the worker is dead. The word is written at once,
and after the record that it refers to, so a worker that is killed at any moment leaves the truth.
"""

from __future__ import annotations

import struct
import time
from typing import NamedTuple

from wfserve import _native
from wfserve.transport.base import Descriptor

_WORD = struct.Struct("@Q")  # native and aligned: one store
_RECORD = struct.Struct("<QIIQQ")
_WITHDRAWN_AT = 8
_RECORDS_AT = 16
SIZE = _RECORDS_AT + 2 * _RECORD.size
_CLOCK = 2**32
_NOTHING = 2**64 - 1


class Progress(NamedTuple):
    """What a worker does: which step of its stage, with which item of the batch, for how long (seconds)."""

    step: int
    item: int
    seconds: float
    passed: Descriptor | None  # where the items that reached this step, and their inputs, are listed


def forget(view: memoryview) -> None:
    """Say that nothing has begun: for whoever lends the memory, before a batch is sent."""
    _WORD.pack_into(view, 0, _NOTHING)
    _WORD.pack_into(view, _WITHDRAWN_AT, _NOTHING)


def withdraw(view: memoryview, tag: int) -> None:
    """Say that the batch `tag` need not begin: for whoever lends the memory. A worker may begin meanwhile."""
    _WORD.pack_into(view, _WITHDRAWN_AT, tag)


def withdrawn(view: memoryview, tag: int) -> bool:
    """Whether the batch `tag` need not begin."""
    (word,) = _WORD.unpack_from(view, _WITHDRAWN_AT)
    return bool(word == tag)


def note(view: memoryview, tag: int, step: int, item: int = 0) -> None:
    """Say that `step` begins with `item`."""
    _native.note_progress(view, tag, step, item)


def note_passed(view: memoryview, tag: int, step: int, place: Descriptor) -> None:
    """Say where the inputs of `step` are listed; to be called before it begins."""
    _RECORD.pack_into(view, _RECORDS_AT + step % 2 * _RECORD.size, tag, step, *place)


def read(view: memoryview, tag: int) -> Progress | None:
    """Return how far the batch `tag` is, None if it has not begun. None of it may be trusted."""
    (word,) = _WORD.unpack_from(view)
    step, low, item, moment = word & 0xFF, word >> 8 & 0xFF, word >> 16 & 0xFFFF, word >> 32
    if low != tag & 0xFF or word == _NOTHING:
        return None
    elapsed = (time.monotonic_ns() // 1_000_000 - moment) % _CLOCK
    seconds = elapsed / 1000 if elapsed < _CLOCK // 2 else 0.0
    number, of_step, *place = _RECORD.unpack_from(view, _RECORDS_AT + step % 2 * _RECORD.size)
    passed = Descriptor(*place) if (number, of_step) == (tag, step) else None
    return Progress(step, item, seconds, passed)
