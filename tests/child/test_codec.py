"""Values through frames and back, in each mode."""

from __future__ import annotations

import dataclasses
import io
import json
import sys
import types
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wfserve.child import codec, objects
from wfserve.child.fault import NodeError
from wfserve.child.inputs import Inputs
from wfserve.transport.base import Descriptor
from wfserve.transport.frame import DTYPES, MAX_RANK, Kind, parse_header
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.message import Ref

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")

if TYPE_CHECKING:
    from wfserve.child.codec import Encoded
    from wfserve.transport.base import ChildLink


class Memory:
    """A child's link to slots that this test fills."""

    def __init__(self) -> None:
        self.transport = MemoryTransport(1 << 26)
        self.link: ChildLink = self.transport.connect()[1].attach()
        self.loans: list[Any] = []

    def ref(self, encoded: Encoded) -> Ref:
        loan = self.transport.arena.loan(encoded.nbytes)
        self.loans.append(loan)
        place = loan.descriptor._replace(length=encoded.nbytes)
        encoded.write(self.link.map(place))
        return Ref(encoded.header, place)


NOBODY = objects.Archive("/nonexistent")


def across(value: Any, *, copied: bool = False) -> Any:
    memory = Memory()
    ref = memory.ref(codec.encode_native(value, Inputs(memory.link), NOBODY))
    return codec.decode_native(ref, Inputs(memory.link, copied=copied))


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    bits = [objects.bits_of(each).contiguous().view(-1) for each in (one, other)]
    return (one.dtype, one.shape) == (other.dtype, other.shape) and (
        bits[0].numpy().tobytes() == bits[1].numpy().tobytes()
    )


def tensor(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    """Return a tensor of the dtype with varied bits."""
    count = int(np.prod(shape)) * DTYPES[dtype]
    data = bytearray(index % 2 if dtype == "bool" else index % 113 for index in range(count))
    return objects.tensor_of(data, dtype, shape)


def test_every_dtype_of_the_frame_is_torchs() -> None:
    assert set(objects.DTYPES) == set(DTYPES)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 3), (2, 0, 3), (2, 3, 4)])
def test_native_tensors_of_every_dtype(dtype: str, shape: tuple[int, ...]) -> None:
    value = tensor(dtype, shape)
    assert same(across(value), value)
    (inside,) = across([value])
    assert same(inside, value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_native_tensors_that_are_not_contiguous(dtype: str) -> None:
    value = tensor(dtype, (4, 6))
    for strided in (value.T, value[::2], value[:, 1:3]):
        assert not strided.is_contiguous()
        assert same(across(strided), strided)
        assert same(across({"x": strided})["x"], strided)


@given(
    st.lists(st.integers(0, 4), max_size=4),
    st.randoms(use_true_random=False),
    st.sampled_from(["float32", "bfloat16", "complex64", "bool"]),
)
def test_native_tensors_of_any_shape_and_order(shape: list[int], random: Any, dtype: str) -> None:
    order = random.sample(range(len(shape)), len(shape))
    value = tensor(dtype, tuple(shape)).permute(order)
    assert same(across(value), value)


def test_lazy_conjugates_and_gradients_are_settled() -> None:
    value = torch.tensor([1 + 2j, 3 - 4j])
    assert torch.equal(across(value.conj()), value.conj())
    assert torch.equal(across(value.conj().imag), value.conj().imag)
    weight = torch.nn.Parameter(torch.ones(2))
    assert torch.equal(across(weight), torch.ones(2))
    assert not across(weight * 2).requires_grad


@pytest.mark.parametrize(
    "value",
    [
        torch.eye(3).to_sparse(),
        torch.ones((1,) * (MAX_RANK + 1)),
    ],
    ids=["sparse", "many dimensions"],
)
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning")
def test_tensors_that_are_more_than_a_frame_can_say_are_objects(value: torch.Tensor) -> None:
    assert torch.equal(*(each.to_dense() if each.is_sparse else each for each in (across(value), value)))


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("wrap", [lambda value: value, lambda value: {"rows": [value]}])
def test_a_nested_tensor(wrap):
    value = torch.nested.nested_tensor([torch.ones(2), torch.zeros(3)])
    back = across(wrap(value))
    back = back["rows"][0] if isinstance(back, dict) else back
    assert [row.tolist() for row in back.unbind()] == [[1, 1], [0, 0, 0]]


def test_a_native_tensor_is_a_view_of_shared_memory_unless_copied() -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native(torch.zeros(4), Inputs(memory.link), NOBODY))
    shared = codec.decode_native(ref, Inputs(memory.link))
    private = codec.decode_native(ref, Inputs(memory.link, copied=True))
    memory.link.map(ref.descriptor)[0:4] = np.float32(7).tobytes()
    assert shared.tolist() == [7, 0, 0, 0]
    assert private.tolist() == [0, 0, 0, 0]


@pytest.mark.parametrize(
    "value", [b"", b"raw", bytearray(b"raw"), memoryview(b"raw"), memoryview(b"r-a-w")[::2]]
)
def test_native_bytes_arrive_as_a_writable_view(value: Any) -> None:
    view = across(value)
    assert isinstance(view, memoryview)
    assert not view.readonly
    assert view == bytes(value)


json_like = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner) | st.tuples(inner, inner),
    max_leaves=8,
)


@given(json_like.filter(lambda value: not isinstance(value, bytes)))
def test_native_values_arrive_as_they_were(value: Any) -> None:
    try:
        arrived = across(value)
    except NodeError:
        assert isinstance(value, str)  # a lone surrogate is no UTF-8
        assert any("\ud800" <= character <= "\udfff" for character in value)
    else:
        assert arrived == value
        assert type(arrived) is type(value)


@pytest.mark.parametrize("dtype", ["float32", "int8", "complex128", "U5", "datetime64[s]", "object"])
def test_native_arrays(dtype: str) -> None:
    value = np.arange(6).astype(dtype).reshape(2, 3)
    for each in (value, value.T, value[:, ::2], value[:0]):
        arrived = across({"x": each})["x"]
        assert arrived.dtype == each.dtype
        assert np.array_equal(arrived, each)


def test_one_tensor_in_two_places_stays_one() -> None:
    value = torch.ones(3)
    one, other = across([value, value])
    assert one is other


def test_tensors_in_an_object_are_views_of_its_body() -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native({"x": torch.zeros(1000)}, Inputs(memory.link), NOBODY))
    inputs = Inputs(memory.link)
    value = codec.decode_native(ref, inputs)
    assert inputs.locate(value["x"].data_ptr(), 4000) is not None
    assert [watched.descriptor for watched in inputs.kept()] == [ref.descriptor]
    del value
    assert inputs.kept() == []


@dataclasses.dataclass
class Importable:
    x: torch.Tensor
    label: str


def test_a_dataclass_both_sides_can_import(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("shared_types")
    monkeypatch.setitem(sys.modules, "shared_types", module)
    monkeypatch.setattr(Importable, "__module__", "shared_types")
    module.Importable = Importable  # type: ignore[attr-defined]
    arrived = across(Importable(torch.ones(2), "a"))
    assert type(arrived) is Importable
    assert torch.equal(arrived.x, torch.ones(2))


def test_a_class_of_the_archive_is_refused_by_name(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own_types.py").write_text("class Box:\n    pass\ndef fn(): pass\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import own_types  # type: ignore[import-not-found]

    for value, name in ((own_types.Box(), "own_types.Box"), ([own_types.fn], "own_types.fn")):
        with pytest.raises(NodeError, match=name):
            codec.encode_native(value, Inputs(Memory().link), objects.Archive(str(tmp_path)))


class Refusing:
    def __reduce__(self) -> Any:
        raise RuntimeError("no")


@pytest.mark.parametrize(
    ("value", "name"),
    [
        (lambda: None, "<lambda>"),
        (type("Local", (), {"__qualname__": "f.<locals>.Local"})(), "Local"),
        ((each for each in ()), "generator"),
        (Refusing(), "Refusing"),
    ],
)
def test_what_cannot_be_rebuilt_is_refused_by_name(value: Any, name: str) -> None:
    with pytest.raises(NodeError, match=name) as caught:
        codec.encode_native({"deep": [value]} if name != "Refusing" else value, Inputs(Memory().link), NOBODY)
    assert caught.value.fault.code == 503


def test_an_object_this_side_cannot_import_is_one_clear_error(monkeypatch: pytest.MonkeyPatch) -> None:
    module = types.ModuleType("soon_gone")
    module.Importable = Importable  # type: ignore[attr-defined]
    memory = Memory()
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "soon_gone", module)
        patch.setattr(Importable, "__module__", "soon_gone")
        ref = memory.ref(codec.encode_native(Importable(torch.ones(1), ""), Inputs(memory.link), NOBODY))
    with pytest.raises(NodeError, match="soon_gone"):
        codec.decode_native(ref, Inputs(memory.link))


def test_parts_of_an_input_are_handed_on_where_they_lie() -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native(torch.arange(100.0), Inputs(memory.link), NOBODY))
    inputs = Inputs(memory.link)
    value = codec.decode_native(ref, inputs)
    segment, offset, _ = ref.descriptor
    for part, place in (
        (value, ref.descriptor),
        (value[10:20], Descriptor(segment, offset + 40, 40)),
        (value.reshape(10, 10), ref.descriptor),
        (value[::2], None),
        (value.clone(), None),
        (value[:0], None),
        (torch.cat([value, value]), None),
    ):
        encoded = codec.encode_native(part, inputs, NOBODY)
        assert encoded.place == place
        header = parse_header(encoded.header)
        assert header.shape == tuple(part.shape)


def test_raw_inputs_are_handed_on_as_bytes() -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native(b"0123456789", Inputs(memory.link), NOBODY))
    inputs = Inputs(memory.link)
    view = codec.decode_native(ref, inputs)
    encoded = codec.encode_leaf(view[2:], inputs)
    assert encoded.place == ref.descriptor._replace(offset=ref.descriptor.offset + 2, length=8)
    floats = torch.frombuffer(view, dtype=torch.int16)
    assert codec.encode_native(floats, inputs, NOBODY).place == ref.descriptor


def test_a_view_that_is_kept_is_noticed_until_it_is_dropped() -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native(b"01234567", Inputs(memory.link), NOBODY))
    inputs = Inputs(memory.link)
    for keep in (
        lambda view: view[1:3],
        lambda view: torch.frombuffer(view, dtype=torch.uint8)[3:],
        lambda view: np.frombuffer(view, dtype=np.int16),
    ):
        kept = keep(codec.decode_native(ref, inputs))
        assert [watched.descriptor for watched in inputs.kept()] == [ref.descriptor]
        del kept
        assert inputs.kept() == []


@pytest.mark.parametrize(
    ("value", "kind", "data"),
    [
        (b"\x00raw", Kind.BYTES, b"\x00raw"),
        (bytearray(b"raw"), Kind.BYTES, b"raw"),
        ("grüße", Kind.TEXT, "grüße".encode()),
        (None, Kind.JSON, b"null"),
        ({"a": [1, "ü"]}, Kind.JSON, b'{\n  "a": [\n    1,\n    "\\u00fc"\n  ]\n}'),
        (1.5, Kind.JSON, b"1.5"),
        ([], Kind.JSON, b"[]"),
    ],
)
def test_bytes_mode_writes_what_torchserve_writes(value: Any, kind: Kind, data: bytes) -> None:
    encoded = codec.encode_bytes(value)
    buffer = bytearray(encoded.nbytes)
    encoded.write(memoryview(buffer))
    assert (parse_header(encoded.header).kind, bytes(buffer)) == (kind, data)


loop: list[Any] = []
loop.append(loop)


@pytest.mark.parametrize(
    "value", [{1, 2}, object(), [torch.ones(1)], np.float32(1), "\ud800", loop, memoryview(b"")]
)
def test_bytes_mode_refuses_what_torchserve_refuses(value: Any) -> None:
    with pytest.raises(NodeError, match=r"Unsupported model output data type\."):
        codec.encode_bytes(value)


def test_in_bytes_mode_a_tensor_between_nodes_becomes_a_container_where_it_is_read() -> None:
    memory = Memory()
    encode = codec.encoder_for("bytes", False, NOBODY)
    for value in (torch.randn(3, 4), torch.randn(3, 4).T, torch.tensor(1), torch.zeros(0, 2)):
        ref = memory.ref(encode(value, Inputs(memory.link)))
        assert parse_header(ref.header).kind == Kind.TENSOR
        read = codec.decode_bytes(ref, Inputs(memory.link))
        assert type(read) is bytearray
        assert torch.equal(torch.load(io.BytesIO(read), weights_only=True), value)
        assert torch.equal(codec.decode_native(ref, Inputs(memory.link)), value)


@pytest.mark.parametrize(
    "value",
    [
        torch.ones(2, requires_grad=True),
        torch.nn.Parameter(torch.ones(2), requires_grad=False),
        torch.ones((1,) * (MAX_RANK + 1)),
        torch.eye(2).to_sparse(),
    ],
    ids=["gradient", "parameter", "many dimensions", "sparse"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_a_tensor_frame_cannot_say_is_a_container_at_once(value: torch.Tensor) -> None:
    memory = Memory()
    ref = memory.ref(codec.encoder_for("bytes", False, NOBODY)(value, Inputs(memory.link)))
    assert parse_header(ref.header).kind == Kind.BYTES
    read = torch.load(io.BytesIO(codec.decode_bytes(ref, Inputs(memory.link))), weights_only=True)
    assert (type(read), read.requires_grad) == (type(value), value.requires_grad)
    assert torch.equal(*(each.to_dense() if each.is_sparse else each for each in (read, value)))


def test_a_leaf_in_bytes_mode_sends_a_container() -> None:
    memory = Memory()
    ref = memory.ref(codec.encoder_for("bytes", True, NOBODY)(torch.arange(5), Inputs(memory.link)))
    assert parse_header(ref.header).kind == Kind.BYTES
    assert torch.equal(torch.load(io.BytesIO(memory.link.map(ref.descriptor))), torch.arange(5))


@pytest.mark.parametrize(
    ("value", "data"),
    [
        (b"raw", bytearray(b"raw")),
        ("text", bytearray(b"text")),
        ({"a": 1}, bytearray(b'{\n  "a": 1\n}')),
    ],
)
def test_a_bytes_node_reads_a_native_parent_as_bytes(value: Any, data: bytearray) -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native(value, Inputs(memory.link), NOBODY))
    read = codec.decode_bytes(ref, Inputs(memory.link))
    assert isinstance(read, bytearray)
    assert read == data


def test_a_bytes_node_reads_a_native_tensor_as_torch_save_wrote_it() -> None:
    memory = Memory()
    ref = memory.ref(codec.encode_native(torch.arange(5), Inputs(memory.link), NOBODY))
    read = codec.decode_bytes(ref, Inputs(memory.link))
    assert torch.equal(torch.load(io.BytesIO(read), weights_only=True), torch.arange(5))


def test_a_native_node_reads_a_bytes_parents_json_and_text() -> None:
    memory = Memory()
    for value in ({"a": [1, "ü"]}, "grüße"):
        ref = memory.ref(codec.encode_bytes(value))
        assert codec.decode_native(ref, Inputs(memory.link)) == value


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (
            {"x": torch.eye(2), "n": np.arange(2), "s": np.float32(1.5)},
            {"x": [[1, 0], [0, 1]], "n": [0, 1], "s": 1.5},
        ),
        (torch.tensor(3), 3),
        (torch.zeros(2, 0), [[], []]),
        (torch.ones(2, dtype=torch.bfloat16), [1.0, 1.0]),
        (np.arange(4).reshape(2, 2).T, [[0, 2], [1, 3]]),
        (np.float16(0.5), 0.5),
        ((1, None, True), [1, None, True]),
        ({1: "a"}, {"1": "a"}),
        ({"big": 2**70}, {"big": 2**70}),
        (Importable(torch.ones(1), "a"), {"x": [1.0], "label": "a"}),
    ],
)
def test_a_native_leaf_is_json(value: Any, expected: Any) -> None:
    encoded = codec.encode_leaf(value, Inputs(Memory().link))
    buffer = bytearray(encoded.nbytes)
    encoded.write(memoryview(buffer))
    assert parse_header(encoded.header).kind == Kind.JSON
    assert json.loads(buffer) == expected


@pytest.mark.parametrize("value", [object(), [1j], {"f": print}, torch.eye(2).to_sparse()])
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_native_leaf_that_is_no_json_is_refused(value: Any) -> None:
    with pytest.raises(NodeError, match="Unsupported model output data type"):
        codec.encode_leaf(value, Inputs(Memory().link))
