"""One tensor of a batch's rows: the same numbers however they lie, and a copy only where they lie apart."""

from __future__ import annotations

import pickle
import random
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wfserve.child import batch as batch_module
from wfserve.child import codec, objects
from wfserve.child.batch import HUGE_PAGE, SPARE_ROOMS, Batch, Rooms
from wfserve.child.inputs import Inputs, address_of
from wfserve.child.spec import WorkerSpec
from wfserve.child.tensors import write_elements
from wfserve.transport.base import Descriptor
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.message import Ref
from wfserve.transport.shm import ShmTransport
from wfserve.transport.slab import Slabs

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from wfserve.transport.base import Payload

NODE = WorkerSpec("w__n", "h.py", "/", data_format="native")


class Memory:
    """A server's arena and a child that maps it."""

    def __init__(self, transport: ShmTransport) -> None:
        self.arena = transport.arena
        self._server, port = transport.connect()
        self.link = port.attach()
        self.inputs = Inputs(self.link)
        self.rooms = Rooms()
        self._held: list[Payload] = []

    def rows(self, values: Sequence[torch.Tensor], order: Sequence[int] | None = None) -> list[torch.Tensor]:
        """Put `values` into rows of a slab, filled in `order`; return them as a handler has them."""
        slabs = Slabs(self.arena, len(values), declared=values[0].nbytes)
        loans = [slabs.loan(value.nbytes) for value in values]
        refs = {}
        for number in order or range(len(values)):
            refs[number] = self._put(loans[number], values[number])
        slabs.rest()
        return [codec.decode_native(refs[number], self.inputs) for number in range(len(values))]

    def apart(self, values: Sequence[torch.Tensor]) -> list[torch.Tensor]:
        """Put `values` into slots of their own, which do not touch."""
        refs = [self._put(self.arena.loan(value.nbytes + 64), value) for value in values]
        return [codec.decode_native(ref, self.inputs) for ref in refs]

    def _put(self, loan: Any, value: torch.Tensor) -> Ref:
        write_elements(value, loan.buffer[: value.nbytes])
        header = pack_header(Kind.TENSOR, value.nbytes, objects.DTYPE_NAMES[value.dtype], value.shape)
        payload = loan.publish(header, 0, value.nbytes)
        self._held.append(payload)
        loan.release()
        return Ref(payload.header, payload.descriptor)

    def batch(self, values: Sequence[Any], key: str = "body", spec: WorkerSpec = NODE) -> Batch:
        return Batch([{key: value} for value in values], self.inputs, self.rooms, spec)

    def close(self) -> None:
        for payload in self._held:
            payload.release()
        self._server.close()


@pytest.fixture
def memory() -> Iterator[Memory]:
    with ShmTransport(1 << 26) as transport:
        made = Memory(transport)
        yield made
        made.close()
        assert transport.arena.statistics().slots == 0


def floats(count: int, *shape: int) -> list[torch.Tensor]:
    return [torch.full(shape, float(number)) for number in range(count)]


def test_neighbours_are_one_view(memory: Memory) -> None:
    values = floats(8, 3, 5)
    rows = memory.rows(values)
    together = memory.batch(rows).tensor()
    assert torch.equal(together, torch.stack(values))
    assert together.data_ptr() == rows[0].data_ptr()
    assert memory.inputs.copies == 0


def test_some_of_the_neighbours_in_a_row_are_one_view(memory: Memory) -> None:
    rows = memory.rows(floats(8, 3, 5))
    assert memory.batch(rows[2:5]).tensor().data_ptr() == rows[2].data_ptr()
    assert memory.inputs.copies == 0


@pytest.mark.parametrize("shape", [(3, 5), (600, 600)])
def test_others_are_copied_once_each(memory: Memory, shape: tuple[int, ...]) -> None:
    values = floats(8, *shape)
    together = memory.batch(memory.apart(values)).tensor()
    assert torch.equal(together, torch.stack(values))
    assert memory.inputs.copies == 8
    together.fill_(7)  # is the handler's own


def test_neighbours_in_another_order_are_copied(memory: Memory) -> None:
    values = floats(4, 3)
    one, two, three, four = memory.rows(values)
    for rows in ([two, one, three, four], [one, three, four], [one, one]):
        assert torch.equal(memory.batch(rows).tensor(), torch.stack(rows))
    assert memory.inputs.copies == 4 + 3 + 2


def test_one_row_is_what_it_is(memory: Memory) -> None:
    (row,) = memory.apart(floats(1, 3))
    together = memory.batch([row]).tensor()
    assert (together.shape, together.data_ptr()) == ((1, 3), row.data_ptr())
    assert memory.inputs.copies == 0


def test_two_inputs_a_row_are_two_runs(memory: Memory) -> None:
    left, right = memory.rows(floats(4, 3)), memory.rows(floats(4, 7))
    rows = [{"left": one, "right": other} for one, other in zip(left, right, strict=True)]
    made = Batch(rows, memory.inputs, memory.rooms, NODE)
    assert (made.tensor("left").shape, made.tensor("right").shape) == ((4, 3), (4, 7))
    assert memory.inputs.copies == 0


@pytest.mark.parametrize("name", sorted(objects.DTYPES))
@pytest.mark.parametrize("nbytes", [16, batch_module.SMALL // 2])
@pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")
def test_every_dtype(memory: Memory, name: str, nbytes: int) -> None:
    dtype = objects.DTYPES[name]
    bits = torch.randint(0, 2, (nbytes,), dtype=torch.uint8)
    values = [bits.view(dtype), bits.flip(0).view(dtype)]
    for rows in (memory.rows(values), memory.apart(values)):
        together = memory.batch(rows).tensor()
        assert together.dtype is dtype
        assert torch.equal(together.view(torch.uint8).flatten(), torch.cat([bits, bits.flip(0)]))
    assert memory.inputs.copies == 2


@pytest.mark.parametrize(
    "changed",
    [
        lambda row: row.t(),
        lambda row: row.conj(),
        lambda row: row.conj().imag,
        lambda row: row[::2],
        lambda row: row.to_sparse(),
        lambda row: row.requires_grad_(),
        lambda row: torch.nn.Parameter(row),
        lambda row: row[:0],
        lambda row: row.sum(),
    ],
)
def test_what_the_handler_made_of_rows_is_stacked(memory: Memory, changed: Any) -> None:
    values = [torch.randn(4, 4, dtype=torch.complex64) for _ in range(3)]
    rows = [changed(row) for row in memory.rows(values)]
    together = memory.batch(rows).tensor()
    expected = torch.stack([changed(value) for value in values])
    assert together.requires_grad == expected.requires_grad
    assert torch.equal(together.to_dense(), expected.to_dense())


class Tagged(torch.Tensor):
    pass


def test_a_subclass_is_kept(memory: Memory) -> None:
    rows = [row.as_subclass(Tagged) for row in memory.rows(floats(3, 4))]
    assert type(memory.batch(rows).tensor()) is Tagged


def test_a_tensor_that_was_turned_in_place_is_seen_as_it_is(memory: Memory) -> None:
    rows = memory.rows([torch.arange(9.0).reshape(3, 3)] * 2)
    for row in rows:
        row.t_()
    assert torch.equal(memory.batch(rows).tensor(), torch.arange(9.0).reshape(3, 3).t().expand(2, 3, 3))


@pytest.mark.parametrize(
    ("other", "named"),
    [(torch.zeros(4), r"row 1 is torch.float32 \[4\]"), (torch.zeros(3, dtype=torch.int32), "torch.int32")],
)
def test_rows_that_differ_are_named(memory: Memory, other: torch.Tensor, named: str) -> None:
    with pytest.raises(ValueError, match=named + r".*row 0 is torch.float32 \[3\]"):
        memory.batch([torch.zeros(3), other]).tensor()


@pytest.mark.parametrize(
    ("value", "problem"),
    [
        ("text", "row 1 has no tensor under 'body', but str"),
        (None, "row 1 has no tensor under 'body', but NoneType"),
        (memoryview(bytearray(8)), "row 1 holds raw bytes, and no shape"),
    ],
)
def test_what_is_no_tensor_is_named(memory: Memory, value: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=problem):
        memory.batch([torch.zeros(2), value]).tensor()
    rows: list[Any] = [{"body": torch.zeros(2)}, {}]
    with pytest.raises(ValueError, match="row 1"):
        Batch(rows, memory.inputs, memory.rooms, NODE).tensor()


def raw(memory: Memory, values: Sequence[torch.Tensor]) -> list[memoryview]:
    return [memoryview(row.numpy()).cast("B") for row in memory.rows(values)]


def test_raw_buffers_are_what_is_declared_or_given(memory: Memory) -> None:
    values = floats(4, 2, 3)
    declared = WorkerSpec("w__n", "h.py", "/", data_format="native", input_shape=(2, 3))
    assert torch.equal(memory.batch(raw(memory, values), spec=declared).tensor(), torch.stack(values))
    as_int = memory.batch(raw(memory, values), spec=declared).tensor(dtype=torch.int32, shape=[6])
    assert (as_int.shape, as_int.dtype) == ((4, 6), torch.int32)
    assert memory.inputs.copies == 0
    with pytest.raises(ValueError, match=r"row 0 does not hold what it should: .*\[7\]"):
        memory.batch(raw(memory, values)).tensor(shape=[7])


def test_elsewhere_a_batch_is_a_list(memory: Memory) -> None:
    made = memory.batch([1, 2])
    assert made == [{"body": 1}, {"body": 2}]
    assert type(pickle.loads(pickle.dumps(made))) is list


def test_a_view_that_is_kept_keeps_every_row(memory: Memory) -> None:
    rows = memory.rows(floats(4, 3))
    places = [watched.descriptor for watched in memory.inputs.kept()]
    memory.inputs = Inputs(memory.link)
    rows = memory.rows(floats(4, 3))
    together = memory.batch(rows[1:]).tensor()
    del rows
    kept = memory.inputs.kept()
    assert len(places) == 4
    assert len(kept) == 3
    part = together[1, :2]
    del together
    assert all(watched.alive() for watched in kept)
    del part
    assert not any(watched.alive() for watched in kept)


def test_once_the_batch_is_answered_no_view_begins(memory: Memory) -> None:
    rows = memory.rows(floats(4, 3))
    memory.inputs.kept()
    assert memory.batch(rows).tensor().data_ptr() != rows[0].data_ptr()


def test_neighbours_that_are_no_inputs_of_this_batch_are_copied(memory: Memory) -> None:
    rows = memory.rows(floats(4, 3))
    before, memory.inputs = memory.inputs, Inputs(memory.link)
    for payload in memory._held[2:]:
        memory.inputs.borrow(Ref(payload.header, payload.descriptor))
    made = memory.batch(rows)
    assert torch.equal(made.tensor(), torch.stack(rows))
    assert torch.equal(made.stack(rows[2:]), torch.stack(rows[2:]))
    assert torch.equal(made.stack(rows[:2]), torch.stack(rows[:2]))
    assert (memory.inputs.copies, before.copies) == (6, 0)


def test_neighbouring_parts_within_an_input_are_copied(memory: Memory) -> None:
    (row,) = memory.rows([torch.arange(6.0)])
    together = memory.batch([row[:2], row[2:4]]).tensor()
    assert together.tolist() == [[0, 1], [2, 3]]
    assert memory.inputs.copies == 2


class TwoSegments:
    """A child's end whose segments, of 1000 bytes, are mapped one behind the other."""

    def __init__(self) -> None:
        self.memory = np.zeros(3000, np.uint8)

    def map(self, descriptor: Descriptor) -> memoryview:
        start = 1000 * descriptor.segment + descriptor.offset
        return self.memory[start : start + descriptor.length].data


def test_a_run_does_not_go_on_in_another_segment() -> None:
    link = TwoSegments()
    inputs, origin = Inputs(link), address_of(link.memory)  # type: ignore[arg-type]
    for segment, offset in ((1, 900), (2, 0), (2, 100)):
        inputs.borrow(Ref(b"", Descriptor(segment, offset, 100)))
    assert inputs.run(origin + 1900, 300) is None
    assert inputs.run(origin + 1900, 200) is None
    assert inputs.run(origin + 2000, 200) is not None


def test_a_part_of_the_view_is_handed_on_where_it_lies(memory: Memory) -> None:
    rows = memory.rows(floats(4, 16))
    together = memory.batch(rows).tensor()
    for number, result in enumerate(together):
        place = codec.encode_native(result, memory.inputs, objects.Archive("/")).place
        assert place == memory.inputs.kept()[number].descriptor


@given(st.data())
def test_the_numbers_are_the_same_however_rows_lie(data: st.DataObject) -> None:
    count, size = data.draw(st.integers(1, 6)), data.draw(st.integers(1, 40))
    with ShmTransport(1 << 24) as transport:
        memory = Memory(transport)
        values = [torch.randn(size) for _ in range(2 * count)]
        order = list(range(count))
        random.Random(data.draw(st.integers())).shuffle(order)
        lying = memory.rows(values[:count], order) + memory.apart(values[count:])
        chosen = data.draw(st.lists(st.integers(0, 2 * count - 1), min_size=1, max_size=2 * count))
        copies = memory.inputs.copies
        together = memory.batch([lying[number] for number in chosen]).tensor()
        assert torch.equal(together, torch.stack([values[number] for number in chosen]))
        in_place = together.data_ptr() == lying[chosen[0]].data_ptr()
        assert memory.inputs.copies - copies == (0 if in_place else len(chosen))
        neighbours = chosen == list(range(chosen[0], chosen[0] + len(chosen))) and chosen[-1] < count
        assert in_place or not neighbours
        memory.close()


class TestRooms:
    @pytest.mark.parametrize("nbytes", [1, 5000, HUGE_PAGE - 1, HUGE_PAGE, 3 * HUGE_PAGE + 1])
    def test_memory_is_aligned_and_exactly_as_large(self, nbytes: int) -> None:
        view = Rooms().take(nbytes)
        assert view.nbytes == nbytes
        assert address_of(view) % (HUGE_PAGE if nbytes >= HUGE_PAGE else 4096) == 0

    def test_it_is_used_again_once_nobody_looks(self) -> None:
        rooms = Rooms()
        view = rooms.take(5000)
        address = address_of(view)
        tensor = torch.frombuffer(view, dtype=torch.uint8)[7:9].numpy()
        del view
        other = rooms.take(5000)
        assert address_of(other) != address
        del tensor
        assert address_of(rooms.take(5000)) == address

    def test_a_little_is_kept_for_the_next_batch_and_no_more(self) -> None:
        rooms = Rooms()
        views = [rooms.take(5000) for _ in range(3 * SPARE_ROOMS)]
        views.clear()
        rooms.take(5000)
        assert len(rooms._rooms) == SPARE_ROOMS

    def test_a_small_batch_does_not_take_a_large_room(self) -> None:
        rooms = Rooms()
        large = address_of(rooms.take(8 * HUGE_PAGE))
        assert address_of(rooms.take(HUGE_PAGE)) != large
        assert address_of(rooms.take(5 * HUGE_PAGE)) == large


def test_large_batches_are_gathered_into_the_same_memory(memory: Memory) -> None:
    values = floats(4, batch_module.SMALL // 8)
    rows = memory.apart(values)
    first = memory.batch(rows).tensor()
    address = first.data_ptr()
    second = memory.batch(rows).tensor()
    assert second.data_ptr() != address
    del first
    assert memory.batch(rows).tensor().data_ptr() == address
