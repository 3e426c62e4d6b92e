"""Which media type becomes what, and which is sent."""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from wfserve.child import media
from wfserve.child.fault import NodeError

JSON, NPY, SAFETENSORS, PYTORCH = (
    "application/json",
    "application/x-npy",
    "application/x-safetensors",
    "application/x-pytorch",
)


@pytest.mark.parametrize(
    ("accept", "mime"),
    [
        ("", JSON),
        (",", JSON),
        ("*/*", JSON),
        ("application/*", JSON),
        ("text/html, application/xhtml+xml, */*;q=0.8", JSON),
        ("application/json, text/plain, */*", JSON),
        (NPY, NPY),
        (f"{NPY}, */*", NPY),
        ("Application/X-NPY", NPY),
        ("application/x.npy", "application/x.npy"),
        (f"{JSON};q=0.5, {NPY};q=0.9", NPY),
        (f"{JSON};q=0.9, {NPY};q=0.5", JSON),
        (f"{NPY};q=0.1, */*;q=0.2", JSON),
        (f"{NPY};version=1;q=0.5, {SAFETENSORS};q=.6", SAFETENSORS),
        (f"{JSON};q=0, {NPY};q=0, {SAFETENSORS};q=0, */*;q=0.1", "application/x.npy"),
        (f"{NPY};q=nonsense, {SAFETENSORS};q=0.001", SAFETENSORS),
        (f"{NPY};q=nan, {PYTORCH};q=0.001", PYTORCH),
        (f"{NPY};q=7, {JSON}", JSON),
    ],
)
def test_the_preferred_type_is_written(accept: str, mime: str) -> None:
    found, written = media.write(torch.ones(2), accept)
    assert found == mime
    assert (written is None) == (mime == JSON)


@pytest.mark.parametrize(
    ("value", "accept", "mime"),
    [
        ({"x": torch.ones(1)}, f"{NPY}, {SAFETENSORS};q=0.1", SAFETENSORS),
        ({"x": 1}, f"{NPY}, {SAFETENSORS}, {JSON};q=0.1", JSON),
        (torch.ones(1, dtype=torch.bfloat16), f"{NPY}, {PYTORCH};q=0.5", PYTORCH),
    ],
)
def test_what_cannot_be_written_so_is_written_in_the_next_best(value: Any, accept: str, mime: str) -> None:
    assert media.write(value, accept)[0] == mime


@pytest.mark.parametrize(
    ("value", "accept"),
    [
        (torch.ones(1), "image/png"),
        (torch.ones(1), "*/*;q=0"),
        ({"x": 1}, NPY),
        ({"x": 1}, SAFETENSORS),
        ([torch.ones(1)], f"{NPY}, {SAFETENSORS}, {PYTORCH}"),
        (torch.ones(1, dtype=torch.bfloat16), NPY),
    ],
)
def test_what_nobody_accepts_is_406_and_says_what_is_offered(value: Any, accept: str) -> None:
    with pytest.raises(NodeError, match=r"Offered are application/json") as caught:
        media.write(value, accept)
    assert caught.value.fault.code == 406
    assert not caught.value.fault.splittable


@given(st.text(st.sampled_from("application/json*x-npy;q=0.1, \t"), max_size=60))
def test_any_accept_header_orders_what_is_offered(accept: str) -> None:
    found = media.preferred(accept)
    assert set(found) <= set(media.OFFERED)
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("mime", [NPY, SAFETENSORS, PYTORCH])
def test_what_is_written_is_read(mime: str) -> None:
    value = torch.randn(2, 3)
    _, written = media.write(value, mime)
    assert written is not None
    data = bytearray(written.nbytes)
    written.write(memoryview(data))
    read = media.read(mime, memoryview(data))
    assert torch.equal(read["output"] if mime == SAFETENSORS else read, value)


@pytest.mark.parametrize("mime", [NPY, "application/x.npy", SAFETENSORS, "application/safetensors", PYTORCH])
def test_a_body_that_is_not_what_it_says_is_a_bad_request(mime: str) -> None:
    assert media.carries_tensors(mime)
    with pytest.raises(NodeError, match=f"The body is not {mime}: .*") as caught:
        media.read(mime, memoryview(bytearray(b"PK nonsense")))
    assert caught.value.fault.code == 400


@pytest.mark.parametrize("mime", ["", JSON, "application/octet-stream", "text/csv", "image/png"])
def test_other_types_carry_no_tensors(mime: str) -> None:
    assert not media.carries_tensors(mime)


def raw(*values: float, dtype: torch.dtype = torch.float32) -> memoryview:
    return memoryview(bytearray(torch.tensor(values, dtype=dtype).view(torch.uint8).numpy().tobytes()))


@pytest.mark.parametrize(
    ("dtype", "shape", "value", "expected"),
    [
        ("float32", "2", raw(1, 2), torch.tensor([1.0, 2])),
        (" Float32 ", " 1 , 2 ", raw(1, 2), torch.tensor([[1.0, 2]])),
        ("bfloat16", "2,1", raw(1, 2, dtype=torch.bfloat16), torch.tensor([[1], [2]], dtype=torch.bfloat16)),
        ("float32", "", raw(3), torch.tensor(3.0)),
        ("int8", "0,5", memoryview(b""), torch.zeros(0, 5, dtype=torch.int8)),
        ("float32", None, [[1, 2], [3, 4]], torch.tensor([[1.0, 2], [3, 4]])),
        ("int64", "3", [1, 2, 3], torch.tensor([1, 2, 3])),
        ("float16", None, 1.5, torch.tensor(1.5, dtype=torch.float16)),
        ("bool", None, [True, False], torch.tensor([True, False])),
    ],
)
def test_headers_say_what_a_body_is(
    dtype: str, shape: str | None, value: Any, expected: torch.Tensor
) -> None:
    found = media.described(dtype, shape, value)
    assert found.dtype == expected.dtype
    assert torch.equal(found, expected)


@pytest.mark.parametrize(
    ("dtype", "shape", "value"),
    [
        ("float32", None, raw(1)),
        ("float32", "2", raw(1)),
        ("float31", "1", raw(1)),
        ("", "1", raw(1)),
        ("float32", "-1", raw(1)),
        ("float32", "1;", raw(1)),
        ("float32", "1,", raw(1)),
        ("float32", "1" * 19, raw(1)),
        ("float32", "0,4611686018427387904,4", memoryview(b"")),
        ("float32", "1" + ",1" * 10, raw(1)),
        ("bool", "1", memoryview(bytearray(b"\x02"))),
        ("float32", None, [[1], [2, 3]]),
        ("float32", None, {"a": 1}),
        ("float32", None, "text"),
        ("float32", None, None),
        ("uint8", None, [300]),
        ("int64", None, [2**70]),
        ("float31", None, [1]),
        ("float32", "3", [1, 2]),
    ],
)
def test_headers_that_do_not_fit_the_body_are_a_bad_request(
    dtype: str, shape: str | None, value: Any
) -> None:
    with pytest.raises(NodeError) as caught:
        media.described(dtype, shape, value)
    assert caught.value.fault.code == 400


@given(
    st.text(max_size=8) | st.sampled_from(["float32", "bool", "int8"]),
    st.none() | st.text(st.sampled_from("0123456789, -"), max_size=12),
    st.binary(max_size=16).map(lambda data: memoryview(bytearray(data)))
    | st.recursive(st.none() | st.integers() | st.floats() | st.text(max_size=3), st.lists, max_leaves=6),
)
def test_any_headers_and_body_are_a_tensor_or_a_node_error(dtype: str, shape: str | None, value: Any) -> None:
    with contextlib.suppress(NodeError):
        assert isinstance(media.described(dtype, shape, value), torch.Tensor)
