"""Whatever a child answers, a lease publishes only what was lent to it, and gives everything back once."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.support import item, release, text
from wfserve.errors import (
    BadRequestError,
    FrameError,
    InternalError,
    OutOfMemoryError,
    PredictionError,
    ServiceUnavailableError,
)
from wfserve.transport import message
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.message import (
    Fault,
    Ref,
    Reply,
    Value,
    decode_call,
    encode_passed,
    encode_reply,
    passed_size,
    reply_size,
)
from wfserve.transport.progress import Progress
from wfserve.workers.base import Done, Failed, Ran, Tenant
from wfserve.workers.lease import Lease, ResultSizes, smallest_extent

LIMIT = 1 << 20


class Exchange:
    """One batch: the server's lease, the child's end of the link, and the items."""

    def __init__(self, transport, *bodies, sizes=None):
        self.transport = transport
        _, port = transport.connect()
        self.child = port.attach()
        self.items = [item(transport, body) for body in bodies or (b"body",)]
        self.lease = Lease(transport.arena, 7, self.items, sizes or ResultSizes())
        self.call = decode_call(self.child.map(self.lease.call.descriptor))
        self.extent = self.call.extent

    def write(self, data, at=0):
        """Write a result as the child does, and return it."""
        place = Descriptor(self.extent.segment, self.extent.offset + at, len(data))
        self.child.map(place)[:] = data
        return Value(Ref(pack_header(Kind.BYTES, len(data)), place))

    def answer(self, *results, kept=(), at=2048, ran=()):
        """Write a reply at `at` of the extent, and have the lease read it."""
        reply = Reply(results, tuple(kept), tuple(ran))
        place = self.extent._replace(offset=self.extent.offset + at, length=reply_size(reply))
        length = encode_reply(reply, self.child.map(place))
        return self.lease.outcomes(place._replace(length=length))

    def end(self):
        for payload in self.lease.kept:
            payload.release()
        self.lease.end()
        release(*self.items)


@pytest.fixture
def transport():
    with MemoryTransport(LIMIT) as made:
        yield made
        assert made.arena.statistics().slots == 0


@pytest.fixture
def exchange(transport):
    made = Exchange(transport, b"one", b"two")
    yield made
    made.end()


def test_a_call_says_for_whom_it_is(transport):
    given = item(transport)
    given.tenant = Tenant("w__n", b"where it stands")
    made = Lease(transport.arena, 7, [given], ResultSizes())
    _, port = transport.connect()
    assert decode_call(port.attach().map(made.call.descriptor)).place == b"where it stands"
    made.end()
    release(given)


def elsewhere(exchange):
    """Places that a child must not answer with, by name."""
    extent, body = exchange.extent, exchange.items[0].inputs[0][1].descriptor
    return {
        "nowhere": NOWHERE,
        "another segment": extent._replace(segment=extent.segment + 1, length=8),
        "before the extent": extent._replace(offset=extent.offset - 1, length=8),
        "over its end": extent._replace(length=extent.length + 1),
        "beyond": extent._replace(offset=extent.offset + extent.length, length=1),
        "an input and more": body._replace(length=body.length + 1),
        "wraps around": extent._replace(length=2**64 - 1),
        "the last address": extent._replace(offset=2**64 - 1, length=2**64 - 1),
    }


PLACES = list(elsewhere(Exchange(MemoryTransport(LIMIT))))


def test_a_call_names_every_item_and_its_extent(exchange):
    assert exchange.lease.call.kind == MessageKind.CALL
    assert exchange.lease.call.tag == 7
    assert [each.request_id for each in exchange.call.items] == [i.request_id for i in exchange.items]
    read = [bytes(exchange.child.map(ref.descriptor)) for i in exchange.call.items for _, ref in i.inputs]
    assert read == [b"one", b"two"]
    assert exchange.extent.length >= smallest_extent(2)


def test_results_become_payloads_in_order(exchange):
    outcomes = exchange.answer(exchange.write(b"first"), exchange.write(b"second", at=64))
    assert [text(outcome.payload) for outcome in outcomes] == ["first", "second"]
    exchange.end()
    assert text(outcomes[0].payload) == "first"  # what was published outlives the lease
    for outcome in outcomes:
        outcome.payload.release()


@pytest.mark.parametrize("name", PLACES)
def test_a_result_elsewhere_is_refused(exchange, name):
    value = Value(Ref(pack_header(Kind.BYTES, 8), elsewhere(exchange)[name]))
    with pytest.raises(FrameError):
        exchange.answer(exchange.write(b"good"), value)


@pytest.mark.parametrize("name", PLACES)
def test_a_reply_elsewhere_is_refused(exchange, name):
    with pytest.raises(FrameError):
        exchange.lease.outcomes(elsewhere(exchange)[name])


def test_an_input_is_no_place_for_a_reply(exchange):
    with pytest.raises(FrameError):
        exchange.lease.outcomes(exchange.items[0].inputs[0][1].descriptor)


@pytest.mark.parametrize("count", [0, 1, 3])
def test_a_reply_has_a_result_an_item(exchange, count):
    with pytest.raises(FrameError, match="2 items"):
        exchange.answer(*[exchange.write(b"x")] * count)


def test_a_kept_input_must_exist(exchange):
    elsewhere_ = exchange.extent._replace(offset=exchange.extent.offset + (1 << 30))
    with pytest.raises(FrameError, match="lies outside"):
        exchange.answer(exchange.write(b"x"), exchange.write(b"y"), kept=[elsewhere_])
    assert exchange.lease.kept == []


def test_a_kept_input_is_held_once_beyond_the_lease(exchange):
    place = exchange.items[1].inputs[0][1].descriptor
    outcomes = exchange.answer(exchange.write(b"x"), exchange.write(b"y"), kept=[place, place])
    (kept,) = exchange.lease.kept
    exchange.lease.end()
    assert text(kept) == "two"
    for outcome in outcomes:
        outcome.payload.release()


def test_an_input_may_be_handed_on_whole_or_in_part(exchange):
    whole = exchange.items[1].inputs[0][1].descriptor
    part = whole._replace(offset=whole.offset + 1, length=2)
    outcomes = exchange.answer(
        Value(Ref(pack_header(Kind.BYTES, 3), whole)), Value(Ref(pack_header(Kind.BYTES, 2), part))
    )
    exchange.end()
    assert [text(outcome.payload) for outcome in outcomes] == ["two", "wo"]
    for outcome in outcomes:
        outcome.payload.release()


@pytest.mark.parametrize(
    ("fault", "error", "code"),
    [
        (Fault(418, "PredictionException", "teapot"), PredictionError, 418),
        (Fault(400, "BadRequestException", "no form"), BadRequestError, 400),
        (Fault(507, "InternalServerException", "Out of resources"), OutOfMemoryError, 507),
        (Fault(503, "InternalServerException", "Prediction failed"), InternalError, 503),
        (Fault(500, "whatever a child invents", "x", splittable=False), InternalError, 500),
    ],
)
def test_faults_become_errors(exchange, fault, error, code):
    outcomes = exchange.answer(fault, fault)
    assert all(isinstance(outcome, Failed) for outcome in outcomes)
    assert type(outcomes[0].error) is error
    assert (outcomes[0].error.code, outcomes[0].error.message) == (code, fault.message)
    assert outcomes[0].splittable is fault.splittable


@given(st.binary(max_size=200))
def test_no_reply_does_more_than_be_refused(rubbish):
    with MemoryTransport(LIMIT) as transport:
        exchange = Exchange(transport, b"one", b"two")
        place = exchange.extent._replace(length=len(rubbish))
        exchange.child.map(place)[:] = rubbish
        with pytest.raises(FrameError):
            exchange.lease.outcomes(place)
        exchange.end()
        assert transport.arena.statistics().slots == 0


def test_a_lie_about_a_length_teaches_nothing(transport):
    sizes = ResultSizes()
    before = sizes.extent_for(1)
    exchange = Exchange(transport, sizes=sizes)
    huge = exchange.extent._replace(length=2**50)
    with pytest.raises(FrameError):
        exchange.answer(Value(Ref(pack_header(Kind.BYTES, 8), huge)))
    exchange.end()
    assert sizes.extent_for(1) == before


def test_what_was_recorded_is_there_unread_and_its_room_is_learned(transport):
    sizes = ResultSizes()
    exchange = Exchange(transport, sizes=sizes)
    (outcome,) = exchange.answer(exchange.write(b"a"), ran=[message.Ran(5, 1, b"[" * 1800)])
    outcome.payload.release()
    assert exchange.lease.ran == (Ran(5e-9, 1, b"[" * 1800),)
    exchange.end()
    sizes.learn(1, 0)
    assert sizes.extent_for(10) >= 10 * 1800


def test_a_direct_item_says_so(transport):
    given = item(transport)
    given.direct = True
    lease = Lease(transport.arena, 1, [given], ResultSizes())
    _, port = transport.connect()
    assert decode_call(port.attach().map(lease.call.descriptor)).direct
    lease.end()
    release(given)


def test_an_item_begins_where_it_was(transport):
    given = item(transport)
    given.first, given.last = 1, 3
    lease = Lease(transport.arena, 1, [given], ResultSizes())
    _, port = transport.connect()
    call = decode_call(port.attach().map(lease.call.descriptor))
    assert (call.first, call.last) == (1, 3)
    lease.end()
    release(given)


def at_steps(exchange, first, last):
    """Have the exchange's batch be of those steps, as the lease remembers them."""
    exchange.lease._first, exchange.lease._last = first, last


def test_a_fault_says_which_step_and_gives_its_input(exchange):
    at_steps(exchange, 0, 2)
    reached = exchange.write(b"half done").ref
    fault = Fault(503, "InternalServerException", "Prediction failed", step=1, reached=reached)
    failed, done = exchange.answer(fault, exchange.write(b"x", at=128))
    exchange.end()
    assert (failed.step, text(failed.reached)) == (1, "half done")
    failed.reached.release()
    done.payload.release()


@pytest.mark.parametrize("step", [0, 3])
def test_a_step_that_did_not_run_cannot_fail(exchange, step):
    at_steps(exchange, 1, 2)
    with pytest.raises(FrameError, match="step"):
        exchange.answer(exchange.write(b"x"), Fault(503, "E", "m", step=step))


def test_more_steps_than_there_are(exchange):
    with pytest.raises(FrameError, match="2 steps"):
        exchange.answer(exchange.write(b"x"), exchange.write(b"y"), ran=[message.Ran()] * 2)


def left(exchange, *entries, at=1024):
    """What a dead child has left in its extent."""
    place = exchange.extent._replace(offset=exchange.extent.offset + at, length=passed_size(len(entries)))
    encode_passed(entries, exchange.child.map(place))
    return Progress(1, 0, 0.0, place)


def test_what_a_dead_child_left_is_published_by_item(exchange):
    remains = exchange.lease.reached(left(exchange, (1, exchange.write(b"half done").ref)))
    exchange.end()
    assert {index: text(payload) for index, payload in remains.items()} == {1: "half done"}
    remains[1].release()
    assert exchange.lease.reached(Progress(1, 0, 0.0, None)) == {}


@pytest.mark.parametrize("lie", ["item", "ref", "place"])
def test_lies_of_a_dead_child_are_refused(exchange, lie):
    outside = exchange.extent._replace(offset=exchange.extent.offset + (1 << 30))
    ref = Ref(pack_header(Kind.BYTES, 1), outside) if lie == "ref" else exchange.write(b"x").ref
    seen = left(exchange, (2 if lie == "item" else 0, ref))
    with pytest.raises(FrameError):
        exchange.lease.reached(seen._replace(passed=outside) if lie == "place" else seen)


class Reversed(Exchange):
    """A batch whose items come in another order than their inputs lie."""

    def __init__(self, transport, *bodies):
        super().__init__(transport, *bodies)
        self.lease.end()
        self.items.reverse()
        self.lease = Lease(transport.arena, 7, self.items, ResultSizes())
        self.call = decode_call(self.child.map(self.lease.call.descriptor))
        self.extent = self.call.extent


@pytest.fixture
def reversed_(transport):
    made = Reversed(transport, b"one", b"two", b"three")
    yield made
    made.end()


def test_a_child_gets_items_as_their_inputs_lie(reversed_):
    read = [bytes(reversed_.child.map(ref.descriptor)) for i in reversed_.call.items for _, ref in i.inputs]
    assert read == [b"one", b"two", b"three"]


def test_outcomes_are_in_the_order_of_the_items(reversed_):
    fault = Fault(503, "InternalServerException", "second")
    outcomes = reversed_.answer(reversed_.write(b"first"), fault, reversed_.write(b"third", at=64))
    assert [text(outcomes[0].payload), outcomes[1].error.message, text(outcomes[2].payload)] == [
        "third",
        "second",
        "first",
    ]
    for outcome in outcomes[::2]:
        outcome.payload.release()


def test_what_a_dead_child_left_is_found_by_item(reversed_):
    remains = reversed_.lease.reached(left(reversed_, (0, reversed_.write(b"of one").ref)))
    assert {index: text(payload) for index, payload in remains.items()} == {2: "of one"}
    remains[2].release()


def test_items_of_several_inputs_or_none_stay_in_order(transport):
    given = [item(transport, body) for body in (b"one", b"two", b"three")][::-1]
    inputs = [each.inputs for each in given]
    given[0].inputs = ()
    given[1].inputs = inputs[1] * 2
    lease = Lease(transport.arena, 7, given, ResultSizes())
    _, port = transport.connect()
    call = decode_call(port.attach().map(lease.call.descriptor))
    assert [len(each.inputs) for each in call.items] == [0, 2, 1]
    lease.end()
    for each, own in zip(given, inputs, strict=True):
        each.inputs = own
    release(*given)


def test_copies_are_told(transport):
    exchange = Exchange(transport)
    (outcome,) = exchange.answer(exchange.write(b"a"), ran=[message.Ran(5, 1, b"", 3)])
    outcome.payload.release()
    assert exchange.lease.ran == (Ran(5e-9, 1, b"", 3),)
    exchange.end()


def test_what_is_handed_on_needs_no_room(transport):
    sizes = ResultSizes()
    before = sizes.extent_for(1)
    exchange = Exchange(transport, bytes(100_000), sizes=sizes)
    whole = exchange.items[0].inputs[0][1].descriptor
    (outcome,) = exchange.answer(Value(Ref(pack_header(Kind.BYTES, 100_000), whole)), at=0)
    outcome.payload.release()
    exchange.end()
    assert sizes.extent_for(1) <= before


def test_room_follows_what_is_written():
    sizes = ResultSizes()
    sizes.learn(4, 400_000)
    assert sizes.extent_for(4) >= 500_000
    for _ in range(400):
        sizes.learn(4, 0)
    assert sizes.extent_for(4) < 10_000


def test_large_results_once_do_not_refuse_batches_for_ever(transport):
    """More was learned than there is: the smallest extent is lent, and the child asks for what it needs."""
    sizes = ResultSizes()
    sizes.learn(1, 100 * LIMIT)
    exchange = Exchange(transport, sizes=sizes)
    assert smallest_extent(1) <= exchange.extent.length < LIMIT
    exchange.end()


def test_growing_lends_one_more_extent(exchange):
    message = exchange.lease.grow(10_000)
    assert message[:2] == (MessageKind.GRANT, 7)
    assert message.descriptor.length >= 10_000
    exchange.extent = message.descriptor
    (first, second) = exchange.answer(exchange.write(b"a"), exchange.write(b"b", at=64))
    assert isinstance(first, Done)
    first.payload.release()
    second.payload.release()


@pytest.mark.parametrize("nbytes", [LIMIT + 1, 2**63, 2**64 - 1])
def test_growing_beyond_the_arena_is_answered_with_nothing(exchange, nbytes):
    held = exchange.transport.arena.statistics().slots
    assert exchange.lease.grow(nbytes) == Message(MessageKind.GRANT, 7, NOWHERE)
    assert exchange.transport.arena.statistics().slots == held


def test_ending_twice_is_ending_once(exchange):
    exchange.lease.end()
    held = exchange.transport.arena.statistics().slots
    exchange.lease.end()
    assert exchange.transport.arena.statistics().slots == held == 4  # two bodies and their headers


@pytest.mark.parametrize("room", [0, 64, smallest_extent(1), smallest_extent(1) + 64])
def test_an_arena_that_is_full_at_any_step_is_left_as_it_was(transport, room):
    """Nothing fits; then the extent does not; then it does, and the call does not."""
    given = item(transport)
    arena = transport.arena
    rest = arena.loan(LIMIT - arena.statistics().loaned_bytes - room)
    before = arena.statistics()
    with pytest.raises(ServiceUnavailableError) as refusal:
        Lease(arena, 1, [given], ResultSizes())
    assert refusal.value.retry_after == 1
    assert (arena.statistics().slots, arena.statistics().loaned_bytes) == (before.slots, before.loaned_bytes)
    rest.release()
    release(given)
