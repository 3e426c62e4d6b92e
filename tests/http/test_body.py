"""A body that came with its head is taken without waiting, and only if it may be."""

import pytest

from wfserve.errors import TooLargeError
from wfserve.http.body import arrived_body
from wfserve.http.exchange import BODY_INTO
from wfserve.transport.memory import MemoryArena


def scope(whole):
    return {"headers": [], "extensions": {BODY_INTO: {"arrived": lambda: whole}}}


def arena():
    return MemoryArena(1 << 20, segment=1)


def test_a_body_that_is_there_is_published():
    payload = arrived_body(scope(b"abc"), 3, arena(), 3)
    assert bytes(payload.borrow()) == b"abc"
    payload.release()


@pytest.mark.parametrize(
    ("asked", "declared"),
    [
        (scope(None), 3),
        ({"headers": [], "extensions": {}}, 3),
        ({"headers": []}, 3),
        (scope(b""), 0),
        (scope(b""), None),
    ],
    ids=["under way", "another server's", "without extensions", "empty", "chunked"],
)
def test_a_body_that_is_read_instead(asked, declared):
    assert arrived_body(asked, declared, arena(), 3) is None


def test_a_body_over_the_limit_is_not_even_taken():
    taken = []
    asked = {"headers": [], "extensions": {BODY_INTO: {"arrived": lambda: taken.append(1)}}}
    with pytest.raises(TooLargeError):
        arrived_body(asked, 4, arena(), 3)
    assert not taken
