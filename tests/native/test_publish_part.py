"""What a child names is published only where it lies wholly in one thing that it was lent or given."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve import _native
from wfserve.transport.base import Descriptor, Ref
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.message import Divided, Fault, Value
from wfserve.transport.shm import ShmTransport
from wfserve.workers.base import Done

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.transport.base import Loan, Payload, Transport

HEADER = b"h" * 96
near = st.integers(-70, 140)
far = st.sampled_from((2**32, 2**63, 2**64 - 1, 2**64 - 64))


@pytest.fixture(params=[MemoryTransport, ShmTransport], scope="module")
def transport(request: pytest.FixtureRequest) -> Iterator[Transport]:
    with request.param(1 << 20) as transport:
        yield transport


@pytest.fixture(scope="module")
def lent(transport: Transport) -> Iterator[tuple[list[Loan], list[Payload]]]:
    """Two loans, and one payload that is the middle of a third."""
    loans = [transport.arena.loan(64) for _ in range(3)]
    part = loans[2].publish(bytes(96), 20, 20)
    yield loans[:2], [part]
    for handle in (*loans, part):
        handle.release()


@given(st.integers(0, 2), near, near | far, st.integers(0, 1))
def test_only_what_lies_within(
    lent: tuple[list[Loan], list[Payload]], which: int, moved: int, length: int, other: int
) -> None:
    loans, payloads = lent
    wholes = [each.descriptor for each in (*loans, *payloads)]
    segment, offset, _ = wholes[which]
    place = Descriptor(segment + other, max(offset + moved, 0), abs(length))
    end = place.offset + place.length
    within = not other and any(
        whole.offset <= place.offset and end <= whole.offset + whole.length for whole in wholes
    )
    published = _native.publish_part(Ref(HEADER, place), loans, payloads)
    assert (published is not None) == within
    if published is not None:
        assert (published.header, published.descriptor) == (HEADER, place)
        published.release()


def test_results_are_published_up_to_the_first_that_is_no_value_or_lies_elsewhere(
    lent: tuple[list[Loan], list[Payload]],
) -> None:
    loans, payloads = lent
    places = [loans[0].descriptor._replace(length=8), payloads[0].descriptor]
    values = [Value(Ref(HEADER, place), b"%d" % number) for number, place in enumerate(places)]
    outside = Value(Ref(HEADER, places[0]._replace(length=2**63)))
    for last in (Fault(500, "kind", "message"), Divided((values[0].ref,)), outside):
        done = _native.publish_values([*values, last, values[0]], loans, payloads, Value, Done)
        assert [type(each) for each in done] == [Done, Done]
        assert [(each.payload.header, each.payload.descriptor) for each in done] == [
            each.ref for each in values
        ]
        assert [each.response for each in done] == [b"0", b"1"]
        for each in done:
            each.release()


def test_results_that_were_published_before_a_failure_are_given_up(transport: Transport) -> None:
    kept, gone = transport.arena.loan(64), transport.arena.loan(64)
    slots = transport.arena.statistics().slots
    results = [Value(Ref(HEADER, loan.descriptor)) for loan in (kept, gone)]
    gone.release()
    with pytest.raises(ValueError, match="released"):
        _native.publish_values(results, [kept, gone], [], Value, Done)
    kept.release()
    assert transport.arena.statistics().slots == slots - 2


def test_a_handle_that_was_released(transport: Transport) -> None:
    loan = transport.arena.loan(64)
    place = loan.descriptor
    loan.release()
    with pytest.raises(ValueError, match="released"):
        _native.publish_part(Ref(HEADER, place), [loan], [])
