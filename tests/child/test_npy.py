"""`.npy` files against numpy, and against what is none."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from wfserve.child import npy, objects

DTYPES = [
    *("bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "uint64", "int64"),
    *("float16", "float32", "float64", "complex64", "complex128"),
]
shapes = st.lists(st.integers(0, 4), max_size=4).map(tuple)


def file_of(array: np.ndarray[Any, Any], **options: Any) -> bytearray:
    file = io.BytesIO()
    np.lib.format.write_array(file, array, **options)
    return bytearray(file.getvalue())


def written(value: Any) -> bytes:
    sized = npy.save(value)
    assert sized is not None
    data = bytearray(b"\xaa" * sized.nbytes)
    sized.write(memoryview(data))
    return bytes(data)


@given(st.sampled_from(DTYPES), shapes, st.sampled_from("<>"), st.sampled_from("CF"))
def test_arrays_of_any_dtype_shape_and_order_are_tensors(
    dtype: str, shape: tuple[int, ...], endian: str, order: Any
) -> None:
    count = int(np.prod(shape))
    array = np.arange(count).astype(np.dtype(dtype).newbyteorder(endian)).reshape(shape).copy(order)
    for version in ((1, 0), (2, 0)):
        read = npy.load(memoryview(file_of(array, version=version)))
        assert (str(read.dtype), tuple(read.shape)) == (f"torch.{dtype}", shape)
        assert np.array_equal(read.numpy(), array)


@given(st.sampled_from(DTYPES), shapes, st.randoms(use_true_random=False))
def test_numpy_reads_what_is_written(dtype: str, shape: tuple[int, ...], random: Any) -> None:
    order = random.sample(range(len(shape)), len(shape))
    array = np.arange(int(np.prod(shape))).astype(dtype).reshape(shape).transpose(order)
    for value in (array, torch.from_numpy(array), torch.from_numpy(array.copy("C"))):
        read = np.load(io.BytesIO(written(value)), allow_pickle=False)
        assert read.dtype == array.dtype
        assert np.array_equal(read, array)


@pytest.mark.parametrize("dtype", ["U5", "datetime64[s]", "i4,f8", ">f4"])
def test_arrays_that_torch_has_no_dtype_for_are_written_all_the_same(dtype: str) -> None:
    array = np.zeros((2, 3), dtype)
    read = np.load(io.BytesIO(written(array)), allow_pickle=False)
    assert (read.dtype, read.shape) == (array.dtype, array.shape)


def test_a_numpy_scalar_is_an_array_without_dimensions() -> None:
    assert np.load(io.BytesIO(written(np.float32(1.5)))) == np.float32(1.5)


@pytest.mark.parametrize(
    "value",
    [
        torch.zeros(2, dtype=torch.bfloat16),
        np.array([{}], dtype=object),
        torch.eye(2).to_sparse(),
        [1],
        3,
        {},
    ],
    ids=["bfloat16", "objects", "sparse", "list", "number", "dict"],
)
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_what_is_no_array_of_numpys_is_not_written(value: Any) -> None:
    assert npy.save(value) is None


def test_elements_are_read_where_they_lie_unless_they_lie_unaligned() -> None:
    data = file_of(np.zeros(4, np.float32))
    assert len(data) % 4 == 0
    read = npy.load(memoryview(data))
    data[-4:] = np.float32(1).tobytes()
    assert read.tolist() == [0, 0, 0, 1]
    shifted = memoryview(bytearray(b"!") + data)[1:]
    assert npy.load(shifted).data_ptr() % 4 == 0
    assert npy.load(shifted).tolist() == [0, 0, 0, 1]


def headed(header: str) -> bytes:
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header.encode()


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"\x93NUMPY",
        b"\x93NUMPY\x03\x00" + bytes(4),
        b"\x93NUMPY\x01\x00\xff\xff",
        headed(""),
        headed("{}"),
        headed("(" * 9000),
        headed("-" * 9000 + "1"),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}") + bytes(7),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2,)}") + bytes(9),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (-2,)}") + bytes(8),
        headed("{'descr': '<f4', 'fortran_order': False, 'shape': (2.0,)}") + bytes(8),
        headed(f"{{'descr': '<f4', 'fortran_order': False, 'shape': (0, {2**62}, 4)}}"),
        headed(f"{{'descr': '<f4', 'fortran_order': True, 'shape': ({10**40},)}}"),
        headed(f"{{'descr': '|u1', 'fortran_order': False, 'shape': {(1,) * 11}}}") + bytes(1),
        headed("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}") + b"\x80\x04N.",
        headed("{'descr': '<U1', 'fortran_order': False, 'shape': (1,)}") + bytes(4),
        headed("{'descr': 'nonsense', 'fortran_order': False, 'shape': (1,)}") + bytes(4),
        headed("{'descr': '|b1', 'fortran_order': False, 'shape': (2,)}") + b"\x01\x02",
        headed("{'descr': '>f4', 'fortran_order': False, 'shape': (2,)}") + bytes(7),
    ],
)
def test_what_is_no_tensor_is_one_value_error(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        npy.load(memoryview(bytearray(data)))


@settings(max_examples=300)
@given(st.sampled_from(["<f4", ">i2", "|b1"]), st.data())
def test_any_damage_is_another_tensor_or_a_value_error(dtype: str, data: Any) -> None:
    whole = file_of(np.zeros((2, 3), dtype))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    try:
        read = npy.load(memoryview(whole))
    except ValueError:
        return
    assert read.dtype in objects.DTYPE_NAMES
