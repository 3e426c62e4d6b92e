"""Tensors from a client's body into a handler's row, and from its result into a response, in a worker."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import numpy as np
import orjson
import pytest
import safetensors.torch
import torch

from wfserve.transport.message import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.child.spec import WorkerSpec

    Make = Callable[..., WorkerSpec]

REPR = """
    def handle(data, context):
        return data and [repr(row["body"]) for row in data]
"""
ECHO = """
    def handle(data, context):
        return data and [row["body"] for row in data]
"""
X = np.arange(6, dtype=np.float32).reshape(2, 3)
BINARY = {"content-type": "application/octet-stream", "x-tensor-dtype": "float32", "x-tensor-shape": "2,3"}


def npy(array: np.ndarray[Any, Any]) -> bytes:
    file = io.BytesIO()
    np.save(file, array, allow_pickle=False)
    return file.getvalue()


def pytorch(tensor: torch.Tensor) -> bytes:
    file = io.BytesIO()
    torch.save(tensor, file)
    return file.getvalue()


def said(result: Any) -> Any:
    return orjson.loads(result.response) if result.response else {}


@pytest.mark.parametrize(
    ("headers", "body", "shown"),
    [
        ({"content-type": "application/x-npy"}, npy(X), repr(torch.from_numpy(X))),
        ({"Content-Type": "Application/X.NPY; v=1"}, npy(X), repr(torch.from_numpy(X))),
        (
            {"content-type": "application/x-safetensors"},
            safetensors.torch.save({"a": torch.ones(1)}),
            "{'a': tensor([1.])}",
        ),
        ({"content-type": "application/x-pytorch"}, pytorch(torch.ones(2)), "tensor([1., 1.])"),
        (BINARY, X.tobytes(), repr(torch.from_numpy(X))),
        (
            {"X-Tensor-Dtype": "float32", "X-Tensor-Shape": "6"},
            X.tobytes(),
            "tensor([0., 1., 2., 3., 4., 5.])",
        ),
        (
            {"content-type": "application/json", "x-tensor-dtype": "int8"},
            b"[1, 2]",
            "tensor([1, 2], dtype=torch.int8)",
        ),
        ({"content-type": "application/json"}, b"[1, 2]", "[1, 2]"),
        ({"content-type": "text/plain", "x-tensor-dtype": "int8"}, b"[1, 2]", "'[1, 2]'"),
    ],
)
def test_a_native_start_node_gets_tensors(
    headers: dict[str, str], body: bytes, shown: str, server: Any, archive: Make
) -> None:
    spec = archive(REPR, data_format="native")
    (result,) = server.batch(spec, server.item(server.put(body), headers=headers))
    assert result.data.decode() == shown


def test_in_bytes_mode_and_with_decoding_off_nothing_changes(server: Any, archive: Make) -> None:
    for fields in ({}, {"data_format": "native", "decode_input_request": False}):
        spec = archive(
            "def handle(data, context): return data and [bytes(row['body']) for row in data]", **fields
        )
        for headers in ({"content-type": "application/x-npy"}, BINARY):
            (result,) = server.batch(spec, server.item(server.put(npy(X)), headers=headers))
            assert result.data == npy(X)


def test_a_file_of_a_form_is_a_tensor_too(server: Any, archive: Make) -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    head = (
        b'--b\r\nContent-Disposition: form-data; name="body"; filename="x"\r\nContent-Type: application/x-npy'
    )
    body = head + b"\r\n\r\n" + npy(X) + b"\r\n--b--\r\n"
    (result,) = server.batch(archive(REPR, data_format="native"), server.item(server.put(body), headers=form))
    assert result.data.decode() == repr(torch.from_numpy(X))


RAW = {"content-type": "application/octet-stream"}


@pytest.mark.parametrize("headers", [RAW, {}, {**BINARY, "x-tensor-shape": "6"}])
def test_a_raw_body_is_the_tensor_that_is_declared(
    headers: dict[str, str], server: Any, archive: Make
) -> None:
    """Unless the client says what it is."""
    spec = archive(REPR, data_format="native", input_shape=(2, 3))
    (result,) = server.batch(spec, server.item(server.put(X.tobytes()), headers=headers))
    shape = (6,) if headers.get("x-tensor-shape") == "6" else (2, 3)
    assert result.data.decode() == repr(torch.from_numpy(X).reshape(shape))


@pytest.mark.parametrize(
    ("headers", "body", "shown"),
    [
        ({"content-type": "application/x-npy"}, npy(X[0]), repr(torch.from_numpy(X[0]))),
        ({"content-type": "application/json"}, b"[1, 2]", "[1, 2]"),
        ({"content-type": "text/plain"}, b"[1, 2]", "'[1, 2]'"),
        ({"content-type": "image/png"}, X.tobytes(), "<memory at "),
    ],
)
def test_other_bodies_are_what_they_are(
    headers: dict[str, str], body: bytes, shown: str, server: Any, archive: Make
) -> None:
    spec = archive(REPR, data_format="native", input_shape=(2, 3))
    (result,) = server.batch(spec, server.item(server.put(body), headers=headers))
    assert result.data.decode().startswith(shown)


def test_a_raw_body_that_is_not_what_is_declared_fails_alone(server: Any, archive: Make) -> None:
    spec = archive(REPR, data_format="native", input_shape=(2, 3), input_dtype="int16")
    bad, good = server.batch(
        spec, server.item(server.put(b"-"), headers=RAW), server.item(server.put(bytes(12)), headers=RAW)
    )
    assert isinstance(bad, Fault)
    assert (bad.code, bad.kind) == (400, "BadRequestException")
    assert bad.message.startswith("The body is not int16 [2, 3], as the specification has it")
    assert good.data.decode() == repr(torch.zeros(2, 3, dtype=torch.int16))


def test_a_tensor_of_the_body_is_handed_on_where_it_lies(server: Any, archive: Make) -> None:
    body = server.put(X.tobytes())
    spec = archive(ECHO, data_format="native")
    (result,) = server.batch(spec, server.item(body, headers=BINARY))
    assert (result.place.segment, result.place.offset) == (body.descriptor.segment, body.descriptor.offset)


@pytest.mark.parametrize(
    ("headers", "body"),
    [
        ({"content-type": "application/x-npy"}, npy(X)[:-1]),
        ({"content-type": "application/x-npy"}, b""),
        ({"content-type": "application/x-safetensors"}, b"\xff" * 16),
        ({"content-type": "application/x-pytorch"}, pytorch(torch.ones(1))[:-30]),
        (BINARY, X.tobytes()[:-1]),
        ({**BINARY, "x-tensor-shape": "a"}, X.tobytes()),
    ],
)
def test_a_body_that_is_no_such_tensor_fails_alone(
    headers: dict[str, str], body: bytes, server: Any, archive: Make
) -> None:
    spec = archive(REPR, data_format="native")
    bad, good = server.batch(
        spec,
        server.item(server.put(body), headers=headers),
        server.item(server.put(X.tobytes()), headers=BINARY),
    )
    assert isinstance(bad, Fault)
    assert (bad.code, bad.kind, bad.splittable) == (400, "BadRequestException", False)
    assert good.data


@pytest.mark.parametrize("direct", [False, True])
def test_a_leaf_answers_as_the_client_accepts(direct: bool, server: Any, archive: Make) -> None:
    fields = {"parents": ("a",)} if direct else {"leaf": True, "only_leaf": True}
    spec = archive(ECHO, data_format="native", **fields)
    reads: dict[str, Callable[[bytes], Any]] = {
        "application/x-npy": lambda data: torch.from_numpy(np.load(io.BytesIO(data))),
        "application/x-safetensors": lambda data: safetensors.torch.load(data)["output"],
        "application/x-pytorch": lambda data: torch.load(io.BytesIO(data)),
    }
    for mime, read in reads.items():
        item = server.item(server.put(X.tobytes()), headers={**BINARY, "Accept": f"{mime}, */*;q=0.1"})
        (result,) = server.batch(spec, item, direct=direct)
        assert said(result) == {"content_type": mime}
        assert torch.equal(read(result.data), torch.from_numpy(X))


@pytest.mark.parametrize("accept", [{}, {"Accept": "*/*"}, {"accept": "text/html, */*"}])
def test_without_a_preference_a_leaf_is_json(accept: dict[str, str], server: Any, archive: Make) -> None:
    spec = archive(ECHO, data_format="native", leaf=True, only_leaf=True)
    (result,) = server.batch(spec, server.item(server.put(X.tobytes()), headers={**BINARY, **accept}))
    assert (result.json(), result.response) == (X.tolist(), b"")


@pytest.mark.parametrize(
    "fields", [{"leaf": True}, {"data_format": "bytes", "leaf": True, "only_leaf": True}, {}]
)
def test_one_of_several_leaves_and_who_is_none_ignores_what_is_accepted(
    fields: dict[str, Any], server: Any, archive: Make
) -> None:
    spec = archive(ECHO, **{"data_format": "native", **fields})
    headers = {"content-type": "application/json", "accept": "application/x-npy"}
    (result,) = server.batch(spec, server.item(server.put(b"[1]"), headers=headers))
    assert said(result) == {}


def test_what_cannot_be_sent_as_accepted_is_406(server: Any, archive: Make) -> None:
    spec = archive(ECHO, data_format="native", leaf=True, only_leaf=True)
    headers = {"content-type": "application/json", "accept": "application/x-npy"}
    (result,) = server.batch(spec, server.item(server.put(b'{"a": 1}'), headers=headers))
    assert result.code == 406
    assert "Offered are application/json" in result.message


@pytest.mark.parametrize(
    ("code", "response"),
    [
        ("context.set_response_content_type(0, 'a/b')", {"content_type": "a/b"}),
        ("context.set_response_status(418, 'no', 0)", {"status": 418}),
    ],
)
def test_a_handler_that_says_what_it_returns_is_believed(
    code: str, response: dict[str, Any], server: Any, archive: Make
) -> None:
    handler = f"""
    import torch
    def handle(data, context):
        if data is not None:
            {code}
            return [torch.ones(1)]
    """
    spec = archive(handler, data_format="native", leaf=True, only_leaf=True)
    (result,) = server.batch(spec, server.item(server.put(b""), headers={"accept": "application/x-npy"}))
    assert (result.json(), said(result)) == ([1.0], response)


def test_headers_of_a_handler_stay_beside_the_type(server: Any, archive: Make) -> None:
    handler = """
    import torch
    def handle(data, context):
        if data is not None:
            context.set_response_header(0, "x-a", "1")
            return [torch.ones(1)]
    """
    spec = archive(handler, data_format="native", leaf=True, only_leaf=True)
    (result,) = server.batch(spec, server.item(server.put(b""), headers={"accept": "application/x-npy"}))
    assert said(result) == {"headers": {"x-a": "1"}, "content_type": "application/x-npy"}


def test_headers_at_their_limit_leave_no_room_for_the_type(server: Any, archive: Make) -> None:
    handler = """
    import torch
    def handle(data, context):
        if data is not None:
            context.set_response_header(0, "x", "a" * (64 * 1024 - 24))
            return [torch.ones(1)]
    """
    spec = archive(handler, data_format="native", leaf=True, only_leaf=True)
    (result,) = server.batch(spec, server.item(server.put(b""), headers={"accept": "application/x-npy"}))
    assert result.message == "The response headers are limited to 65536 bytes."
