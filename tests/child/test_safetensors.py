"""safetensors files against the reference implementation, and against what is none."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch as reference
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wfserve.child import objects, safetensors
from wfserve.transport.frame import DTYPES

LACKING = {"complex32", "complex128", "float4_e2m1fn_x2", "float8_e8m0fnu"}  # the last in reading alone
shapes = st.lists(st.integers(0, 4), max_size=3).map(tuple)


def tensor(dtype: str, shape: tuple[int, ...]) -> torch.Tensor:
    count = DTYPES[dtype] * int(torch.Size(shape).numel())
    return objects.tensor_of(
        bytearray(index % (2 if dtype == "bool" else 113) for index in range(count)), dtype, shape
    )


def written(value: Any) -> bytes:
    sized = safetensors.save(value)
    assert sized is not None
    data = bytearray(b"\xaa" * sized.nbytes)
    sized.write(memoryview(data))
    return bytes(data)


def assert_same(read: dict[str, torch.Tensor], value: dict[str, torch.Tensor]) -> None:
    assert read.keys() == value.keys()
    for name, each in value.items():
        assert (read[name].dtype, read[name].shape) == (each.dtype, each.shape)
        assert objects.bits_of(read[name]).equal(objects.bits_of(each))


named = st.dictionaries(
    st.text(st.characters(exclude_categories=["Cs"])).filter(lambda name: name != "__metadata__"),
    st.builds(tensor, st.sampled_from(sorted(DTYPES.keys() - LACKING)), shapes),
    max_size=4,
)


@given(named)
def test_the_reference_reads_what_is_written(value: dict[str, torch.Tensor]) -> None:
    data = written(value)
    assert_same(reference.load(data), value)
    assert_same(safetensors.load(memoryview(bytearray(data))), value)


@given(named, st.none() | st.dictionaries(st.text("abc"), st.text("abc"), min_size=1, max_size=2))
def test_what_the_reference_writes_is_read(
    value: dict[str, torch.Tensor], metadata: dict[str, str] | None
) -> None:
    assert_same(safetensors.load(memoryview(bytearray(reference.save(value, metadata)))), value)


def test_one_tensor_is_the_output() -> None:
    value = torch.randn(3, 4)
    assert_same(reference.load(written(value.T)), {"output": value.T.contiguous()})
    assert_same(reference.load(written(value[0].numpy())), {"output": value[0]})


def test_arrays_are_written_as_tensors_whatever_their_order() -> None:
    frozen = np.arange(6)
    frozen.flags.writeable = False
    value = {"x": np.arange(6).reshape(2, 3).T, "y": np.float32([1])[::-1], "z": np.array(1.5), "w": frozen}
    read = reference.load(written(value))
    assert all(np.array_equal(read[name].numpy(), each) for name, each in value.items())


@pytest.mark.parametrize(
    "value",
    [
        {"x": torch.ones(1), "y": 3},
        {1: torch.ones(1)},
        {"__metadata__": torch.ones(1)},
        torch.ones(1, dtype=torch.complex128),
        np.array(["a"]),
        np.ones(2, ">f4"),
        [torch.ones(1)],
        None,
    ],
)
def test_what_is_not_tensors_by_name_is_not_written(value: Any) -> None:
    assert safetensors.save(value) is None


def test_tensors_are_read_where_they_lie_unless_they_lie_unaligned() -> None:
    data = bytearray(reference.save({"x": torch.zeros(2)}))
    read = safetensors.load(memoryview(data))["x"]
    data[-4:] = np.float32(1).tobytes()
    assert read.tolist() == [0, 1]
    shifted = safetensors.load(memoryview(bytearray(b"!") + data)[1:])["x"]
    assert shifted.data_ptr() % 4 == 0
    assert shifted.tolist() == [0, 1]


def file_of(header: Any, elements: bytes = b"") -> bytearray:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return bytearray(len(text).to_bytes(8, "little") + text + elements)


def entry(dtype: Any = "F32", shape: Any = (2,), offsets: Any = (0, 8)) -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


@pytest.mark.parametrize(
    "data",
    [
        b"",
        bytes(7),
        b"\xff" * 8,
        (10**9).to_bytes(8, "little") + b"{}",
        file_of(b"{"),
        file_of(b"[" * 5000),
        file_of([]),
        file_of({"x": 3}),
        file_of({"x": entry()}, bytes(7)),
        file_of({"x": entry()}, bytes(9)),
        file_of({"x": entry(offsets=(1, 9))}, bytes(9)),
        file_of({"x": entry(), "y": entry()}, bytes(8)),
        file_of({"x": entry(), "y": entry(offsets=(4, 12))}, bytes(12)),
        file_of({"x": entry(), "y": entry(offsets=(9, 17))}, bytes(17)),
        file_of({"x": entry(offsets=(0, -8))}, bytes(8)),
        file_of({"x": entry(offsets=(0, 8, 8))}, bytes(8)),
        file_of({"x": entry(offsets=(0, True))}, bytes(1)),
        file_of({"x": entry(offsets=(0, 2**70))}, bytes(8)),
        file_of({"x": entry(dtype="F31")}, bytes(8)),
        file_of({"x": entry(dtype=["F32"])}, bytes(8)),
        file_of({"x": entry(shape=(3,))}, bytes(8)),
        file_of({"x": entry(shape=(-2,))}, bytes(8)),
        file_of({"x": entry(shape=(2.0,))}, bytes(8)),
        file_of({"x": entry(shape=(0, 2**62, 4), offsets=(0, 0))}),
        file_of({"x": entry(shape="2")}, bytes(8)),
        file_of({"x": entry("BOOL", (2,), (0, 2))}, b"\x00\x02"),
    ],
)
def test_what_is_no_such_file_is_one_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        safetensors.load(memoryview(bytearray(data)))


@settings(max_examples=300)
@given(st.data())
def test_any_damage_is_other_tensors_or_a_value_error(data: Any) -> None:
    whole = bytearray(reference.save({"x": torch.zeros(2), "y": torch.ones(1, dtype=torch.int64)}))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = safetensors.load(memoryview(whole))
    except ValueError:
        return
    assert all(each.dtype in objects.DTYPE_NAMES for each in read.values())
