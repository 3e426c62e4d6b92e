"""Functions that return, raise or set what the body asks for."""

import os
import time

import torch
from ts.utils.util import PredictionException

RESULTS = {
    "bytes": b"\x00raw\xff",
    "bytearray": bytearray(b"raw"),
    "empty": b"",
    "str": "größe",
    "dict": {"a": [1, 2.5, None, True], "b": {"c": "é"}},
    "empty dict": {},
    "list": [1, [2]],
    "none": None,
    "int": 7,
    "float": 0.5,
    "nan": float("nan"),
    "true": True,
    "tuple": (1, 2),
    "set": {1},
    "object": object(),
    "tensor": torch.tensor([1.0, 2.0]),
    "nested tensor": {"a": torch.tensor([1])},
}
REFUSALS = {
    "value": ValueError("secret detail"),
    "memory": MemoryError(),
    "cuda": RuntimeError("a CUDA error"),
    "refused": PredictionException("not like this", 422),
    "refused with colons": PredictionException("one: two: three", 409),
    "refused plainly": PredictionException("plainly"),
}


def give(data, context):
    """Return what the body names."""
    if data is None:
        return None
    word = bytes(data[0]["body"]).decode()
    if word in REFUSALS:
        raise REFUSALS[word]
    if word == "nothing":
        return None
    if word == "no list":
        return {"a": 1}
    if word == "too many":
        return ["a", "b"]
    if word == "too few":
        return []
    if word == "exit":
        os._exit(3)
    if word.startswith("size "):
        return [b"x" * int(word.split()[1])]
    if word.startswith("sleep "):
        time.sleep(float(word.split()[1]))
        return ["slept"]
    return [RESULTS[word]]


def respond(data, context):
    """Set of the response what the body names."""
    if data is None:
        return None
    word = bytes(data[0]["body"]).decode()
    if word == "type":
        context.set_response_content_type(0, "text/csv")
    elif word == "header":
        context.set_response_header(0, "X-Mine", "mine")
    elif word == "all headers":
        context.set_response_header(0, "X-One", "1")
        context.set_response_header(0, "X-Two", "2")
    elif word == "status":
        context.set_response_status(code=404, phrase="not here", idx=0)
    elif word == "created":
        context.set_response_status(code=201, phrase="Created", idx=0)
    elif word == "all statuses":
        context.set_all_response_status(code=418, phrase="teapot")
    return ["said"]


def load_tensor(data, context):
    """Read what torch.save wrote."""
    if data is None:
        return None
    import io

    value = torch.load(io.BytesIO(bytes(data[0]["body"])))
    return [{"type": type(value).__name__, "value": value.tolist()}]
