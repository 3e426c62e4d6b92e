"""Containers against `torch.save` and `torch.load`, and against whatever else is said to be one."""

from __future__ import annotations

import io
import pickle
import struct
import zipfile
from typing import TYPE_CHECKING, Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wfserve.child import container, objects
from wfserve.transport.frame import DTYPES

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.filterwarnings("ignore:ComplexHalf support is experimental")


# torch cannot load what it saves of younger dtypes with a gradient.
DIFFERENTIABLE = ("float16", "bfloat16", "float32", "float64", "complex64", "complex128")


def tensor(dtype: str, shape: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Return a tensor of the dtype with varied bits."""
    count = DTYPES[dtype] * int(torch.Size(shape).numel())
    data = bytearray((index + seed) % (2 if dtype == "bool" else 113) for index in range(count))
    return objects.tensor_of(data, dtype, shape)


def saved(value: torch.Tensor) -> bytearray:
    sized = container.save(value)
    data = bytearray(b"\xaa" * sized.nbytes)
    sized.write(memoryview(data))
    return data


def saved_by_torch(value: torch.Tensor) -> bytearray:
    file = io.BytesIO()
    torch.save(value, file)
    return bytearray(file.getvalue())


def loaded(data: bytearray) -> torch.Tensor:
    found = container.load(memoryview(data))
    assert found is not None
    return found


def assert_same(one: torch.Tensor, other: torch.Tensor, *, strides: bool = True) -> None:
    described = [(each.dtype, each.shape, each.requires_grad) for each in (one, other)]
    assert described[0] == described[1]
    assert not strides or one.stride() == other.stride()
    bits = [objects.bits_of(each).contiguous().view(-1).numpy().tobytes() for each in (one, other)]
    assert bits[0] == bits[1]


shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


@settings(max_examples=200)
@given(st.sampled_from(sorted(DTYPES)), shapes, st.randoms(use_true_random=False), st.booleans())
def test_any_plain_tensor_is_what_torch_loads(
    dtype: str, shape: tuple[int, ...], random: Any, grad: bool
) -> None:
    value = tensor(dtype, shape, random.randrange(100)).permute(random.sample(range(len(shape)), len(shape)))
    value.requires_grad_(grad and dtype in DIFFERENTIABLE)
    data = saved(value)
    for weights_only in (True, False):
        assert_same(torch.load(io.BytesIO(data), weights_only=weights_only), value)
    assert_same(loaded(data), value)
    assert_same(loaded(saved_by_torch(value)), value)


@given(st.sampled_from(sorted(DTYPES)), shapes)
def test_a_container_around_elements_is_the_same_as_of_their_tensor(
    dtype: str, shape: tuple[int, ...]
) -> None:
    value = tensor(dtype, shape)
    elements = memoryview(objects.bits_of(value).contiguous().view(-1).numpy().tobytes())
    assert container.around(elements, value.dtype, shape) == saved(value)


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_pickle_is_torchs_own(dtype: str) -> None:
    for value in (tensor(dtype, (2, 300)), tensor(dtype, ()), tensor(dtype, (2, 3)).T):
        ours, theirs = (
            zipfile.ZipFile(io.BytesIO(data)).read("archive/data.pkl")
            for data in (saved(value), saved_by_torch(value))
        )
        assert ours == theirs


@pytest.mark.parametrize(
    "value",
    [
        torch.arange(24.0).reshape(4, 6)[:, 1:4],
        torch.arange(10.0)[::3],
        torch.arange(10.0)[2:3],
        torch.ones(1).expand(5),
        torch.tensor([1 + 2j, 3 - 1j]).conj(),
        torch.tensor([1 + 2j, 3 - 1j]).conj().imag,
        torch.nn.Parameter(torch.ones(3)).exp(),
    ],
    ids=["columns", "step", "row", "expanded", "conjugate", "negative", "computed"],
)
def test_a_view_takes_nothing_else_along(value: torch.Tensor) -> None:
    data = saved(value)
    assert len(data) <= 1400 + value.nbytes
    assert_same(torch.load(io.BytesIO(data), weights_only=True), value.resolve_conj(), strides=False)
    assert_same(loaded(data), value, strides=False)


def test_channels_stay_last() -> None:
    value = torch.randn(2, 3, 4, 5).to(memory_format=torch.channels_last)
    read = torch.load(io.BytesIO(saved(value)), weights_only=True)
    assert read.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(read, value)


class Tagged(torch.Tensor):
    pass


def attributed() -> torch.Tensor:
    value = torch.ones(3)
    value.note = "kept"  # type: ignore[attr-defined]
    return value


@pytest.mark.parametrize(
    "value",
    [
        torch.nn.Parameter(torch.ones(2)),
        torch.ones(2).as_subclass(Tagged),
        attributed(),
        torch.ones(2).to("meta"),
    ],
    ids=["parameter", "subclass", "attribute", "meta"],
)
def test_what_is_not_plain_is_as_torch_saves_it(value: torch.Tensor) -> None:
    data = saved(value)
    read = torch.load(io.BytesIO(data), weights_only=False)
    assert (type(read), read.device, read.__dict__) == (type(value), value.device, value.__dict__)
    assert container.load(memoryview(data)) is None


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_a_nested_tensor_is_as_torch_saves_it() -> None:
    value = torch.nested.as_nested_tensor([torch.ones(2), torch.zeros(3)])
    read = torch.load(io.BytesIO(saved(value)), weights_only=False)
    assert [each.tolist() for each in read.unbind()] == [[1, 1], [0, 0, 0]]


def test_records_are_those_of_format_version_3() -> None:
    data = saved(torch.arange(100.0))
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        assert archive.testzip() is None  # every checksum is right
        names = {each.filename: each for each in archive.infolist()}
        contents = {name: archive.read(name) for name in names}
    assert contents["archive/version"] == b"3\n"
    assert contents["archive/byteorder"] == b"little"
    assert contents["archive/.format_version"] == b"1"
    assert contents["archive/.storage_alignment"] == b"64"
    assert contents["archive/data/0"] == torch.arange(100.0).numpy().tobytes()
    for each in names.values():
        name, extra = struct.unpack_from("<HH", data, each.header_offset + 26)
        assert (each.header_offset + 30 + name + extra) % 64 == 0


def test_torch_maps_it_from_a_file(tmp_path: Path) -> None:
    value = torch.randn(50, 3)
    (tmp_path / "x.pt").write_bytes(saved(value))
    assert torch.equal(torch.load(tmp_path / "x.pt", mmap=True, weights_only=True), value)
    with torch.serialization.skip_data():
        assert torch.load(tmp_path / "x.pt", weights_only=True).shape == value.shape
    assert torch.load(tmp_path / "x.pt", map_location="meta").shape == value.shape


def test_what_is_loaded_lies_in_the_container() -> None:
    data = saved(torch.zeros(4))
    read = loaded(data)
    data[data.index(b"data/0") :] = data[data.index(b"data/0") :].replace(bytes(16), b"\0\0\x80?" * 4, 1)
    assert read.tolist() == [1, 1, 1, 1]


def test_a_container_that_lies_unaligned_is_copied() -> None:
    value = torch.randn(5, dtype=torch.float64)
    data = memoryview(b"!" + bytearray(saved(value)))[1:]
    assert_same(loaded(bytearray(data)), value)
    shifted = memoryview(bytearray(b"!") + saved(value))[1:]
    read = container.load(shifted)
    assert read is not None
    assert read.data_ptr() % 8 == 0
    assert torch.equal(read, value)


def other_containers() -> list[bytes]:
    """Return what `torch.save` writes of other things."""
    batch = torch.arange(10.0)
    values: list[Any] = [{"x": batch}, [batch, batch], 3, batch[2:4], torch.eye(2).to_sparse()]
    return [bytes(saved_by_torch(value)) for value in values]


@pytest.mark.filterwarnings("ignore::UserWarning")
def test_other_containers_are_left_to_torch() -> None:
    for data in other_containers():
        assert container.load(memoryview(bytearray(data))) is None


def rewritten(data: bytearray, method: int = zipfile.ZIP_STORED, **records: bytes) -> bytearray:
    """Return the archive with other contents for some records, whose dots are underscores here."""
    file = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(file, "w", method) as new:
        for name in old.namelist():
            new.writestr(name, records.get(name.rpartition("/")[2].replace(".", "_"), old.read(name)))
    return bytearray(file.getvalue())


def test_another_writers_archive_is_read_by_the_same_rules() -> None:
    value = torch.arange(6.0)
    assert torch.equal(loaded(rewritten(saved(value))), value)


@pytest.mark.parametrize(
    "records",
    [
        {"byteorder": b"big"},
        {"0": b"too short"},
        {"data_pkl": b""},
        {"data_pkl": b"\x80\x02."},
        {"data_pkl": pickle.dumps({"torch FloatStorage": 1}, 2)},
        {"data_pkl": b"cos\nsystem\n(S'true'\ntR."},
        {"data_pkl": b"\x80\x02" + b"K\x01" * 5000},
    ],
)
def test_what_says_something_else_is_none(records: dict[str, bytes]) -> None:
    assert container.load(memoryview(rewritten(saved(torch.arange(6.0)), **records))) is None


def test_compressed_and_foreign_archives_are_none() -> None:
    data = saved(torch.zeros(1000))
    assert container.load(memoryview(rewritten(data, zipfile.ZIP_DEFLATED))) is None
    with zipfile.ZipFile(file := io.BytesIO(data), "a") as archive:
        for number in range(100):
            archive.writestr(f"archive/more-{number}", b"")
    assert container.load(memoryview(bytearray(file.getvalue()))) is None


def test_a_record_may_not_end_outside() -> None:
    data = saved(torch.zeros(1000))
    directory = data.index(b"PK\x01\x02")
    entry = data.index(b"archive/data/0", directory) - 46
    struct.pack_into("<I", data, entry + 42, len(data) - 100)
    assert container.load(memoryview(data)) is None


def test_strides_cannot_reach_beyond_the_elements() -> None:
    layout = container.Layout(torch.float32, (2, 3), (6, 1), False)
    data = rewritten(saved(torch.arange(6.0)), data_pkl=container._pickled(layout))
    assert container.load(memoryview(data)) is None


@pytest.mark.parametrize("shape", [(2**62, 4, 0), (0, 2**63), (2**40, 2**40, 0)])
def test_an_overflowing_shape_is_none(shape: tuple[int, ...]) -> None:
    layout = container.Layout(torch.float32, shape, (1,) * len(shape), False)
    data = rewritten(saved(torch.zeros(0)), data_pkl=container._pickled(layout), **{"0": b""})
    assert container.load(memoryview(data)) is None


@settings(max_examples=300)
@given(st.sampled_from(["float32", "bfloat16", "uint16"]), st.data())
def test_any_damage_is_another_tensor_or_none(dtype: str, data: Any) -> None:
    whole = data.draw(st.sampled_from([saved, saved_by_torch]))(tensor(dtype, (2, 3)))
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(whole) - 1))
        whole[at] = data.draw(st.integers(0, 255))
    cut = data.draw(st.just(len(whole)) | st.integers(0, len(whole)))
    found = container.load(memoryview(whole[:cut]))
    assert found is None or isinstance(found.sum().item(), (int, float))


@given(st.binary(max_size=200))
def test_noise_is_none(noise: bytes) -> None:
    assert container.load(memoryview(bytearray(noise))) is None
    ended = noise + b"PK\x05\x06" + bytes(18)
    assert container.load(memoryview(bytearray(ended))) is None
