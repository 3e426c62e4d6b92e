"""Tensors from a client's request to its response, on our server and on hypercorn."""

import io

import numpy as np
import pytest
import safetensors.torch
import torch

from tests.archives import pack

FUNCTIONS = """
import torch

def twice(data, context):
    if data is None:
        return None
    body = data[0]["body"]
    if isinstance(body, dict):
        return [{name: 2 * value for name, value in body.items()}]
    return [2 * torch.as_tensor(body)]

def same(data, context):
    return data and [data[0]["body"]]

def sum(data, context):
    return data and [{"sum": float(data[0]["body"].sum())}]
"""
ONE = """
models: {}
functions:
  twice: {data-format: native}
  same: {data-format: native}
dag:
  twice: [same]
"""
TWO = """
models: {}
functions:
  twice: {data-format: native}
  sum: {data-format: native}
  same: {data-format: native}
dag:
  twice: [sum, same]
"""
X = np.arange(6, dtype=np.float32).reshape(2, 3)
NPY, SAFETENSORS = "application/x-npy", "application/x-safetensors"


@pytest.fixture(scope="module")
def tensors(server, store):
    """A workflow that doubles what it gets, and one that does that with two leaves."""
    server.register(pack(store, "tensors", ONE, FUNCTIONS))
    server.register(pack(store, "two", TWO, FUNCTIONS))
    yield server
    for name in ("tensors", "two"):
        assert server.call("DELETE", f"/workflows/{name}").status_code == 200


def npy(array):
    file = io.BytesIO()
    np.save(file, array)
    return file.getvalue()


def predict(server, name, body, **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.predict(name, body, headers=named)


def test_npy_in_and_out(tensors):
    response = predict(tensors, "tensors", npy(X), content_type=NPY, accept=NPY)
    assert (response.status_code, response.headers["content-type"]) == (200, NPY)
    assert np.array_equal(np.load(io.BytesIO(response.content)), 2 * X)


def test_safetensors_in_and_out(tensors):
    body = safetensors.torch.save({"a": torch.ones(2)})
    response = predict(tensors, "tensors", body, content_type=SAFETENSORS, accept=SAFETENSORS)
    assert response.headers["content-type"] == SAFETENSORS
    assert safetensors.torch.load(response.content)["a"].tolist() == [2, 2]


def test_raw_in_and_json_out(tensors):
    response = predict(tensors, "tensors", X.tobytes(), x_tensor_dtype="float32", x_tensor_shape="2,3")
    assert (response.headers["content-type"], response.json()) == ("application/json", (2 * X).tolist())


def test_a_node_called_alone_answers_as_accepted(tensors):
    response = tensors.call(
        "POST",
        "/predictions/tensors__twice",
        api="inference",
        content=npy(X),
        headers={"content-type": NPY, "accept": NPY},
    )
    assert response.headers["content-type"] == NPY
    assert np.array_equal(np.load(io.BytesIO(response.content)), 2 * X)


def test_several_leaves_are_json_whatever_is_accepted(tensors):
    response = predict(tensors, "two", npy(X), content_type=NPY, accept=NPY)
    assert response.headers["content-type"] == "application/json"
    assert response.json() == {"sum": {"sum": 30.0}, "same": (2 * X).tolist()}


@pytest.mark.parametrize(
    ("headers", "status", "message"),
    [
        ({"content_type": NPY}, 400, "The body is not application/x-npy: "),
        ({"x_tensor_dtype": "float32", "x_tensor_shape": "7"}, 400, "does not take 24 bytes"),
        (
            {"x_tensor_dtype": "float32", "x_tensor_shape": "6", "accept": "image/png"},
            406,
            "cannot be sent as 'image/png'. Offered are application/json",
        ),
    ],
)
def test_what_does_not_fit_is_told_to_the_client(tensors, headers, status, message):
    response = predict(tensors, "tensors", X.tobytes(), **headers)
    assert response.status_code == status
    assert response.json()["code"] == status
    assert message in response.json()["message"]
