"""One node called alone, as TorchServe's clients call a model, on our server and on hypercorn."""

import io
import textwrap
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from tests.archives import pack
from tests.e2e.test_faults import leave_behind_another
from wfserve.archive.pack import ModelArchiveOptions, pack_model

MODEL = """
import os, time
import torch
from ts.utils.util import PredictionException

class Model:
    def initialize(self, context):
        pass

    def handle(self, data, context):
        return [self.answer(index, row, context) for index, row in enumerate(data)]

    def answer(self, index, row, context):
        body = row.get("body")
        word = bytes(body).decode() if isinstance(body, (bytes, bytearray)) else body
        if word == "status":
            context.set_response_status(201, "Made", index)
            context.set_response_header(index, "X-Thing", "a")
            return b"made"
        if word == "empty":
            context.set_response_status(204, "", index)
        if word == "no status":
            context.set_response_status(42, "", index)
        if word == "png":
            context.set_response_content_type(index, "image/png")
        if word == "raise":
            raise ValueError("secret detail")
        if word == "cuda":
            raise RuntimeError("CUDA out of memory")
        if word == "refuse":
            raise PredictionException("not today", 418)
        if word == "set":
            return {1}
        if word == "tensor":
            return torch.ones(2)
        if word == "die":
            os._exit(1)
        if word == "hang":
            time.sleep(60)
        if word == "id":
            return context.get_request_id(index)
        if word == "headers":
            return dict(context.get_all_request_header(index))
        if isinstance(word, str):
            return word
        return repr(row)
"""
SPEC = """
models:
  timeout-ms: 300000
  m:
    url: alone.mar
dag:
  echo: [m]
  m: [shout]
"""
FUNCTIONS = """
def echo(data, context):
    return None if data is None else [row.get("body") for row in data]

def shout(data, context):
    return None if data is None else [repr(row) for row in data]
"""


def pack_with(store, name, code, config, spec):
    """Pack a workflow `name` with a model of the same name, version 2.5."""
    handler, settings = store / f"{name}_handler.py", store / f"{name}.yaml"
    handler.write_text(textwrap.dedent(code))
    settings.write_text(config)
    pack_model(
        ModelArchiveOptions(name, str(handler), "2.5", export_path=store, config_file=settings, force=True)
    )
    return pack(store, name, spec, FUNCTIONS)


@pytest.fixture(scope="module")
def alone(server, store):
    """A workflow whose middle node is a model; its calls may take a second."""
    server.register(pack_with(store, "alone", MODEL, "responseTimeout: 1\n", SPEC))
    yield server
    assert server.call("DELETE", "/workflows/alone").status_code == 200


def call(server, path, body=b"", method="POST", **headers):
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return server.call(method, path, api="inference", content=body, headers=named)


def error_of(response):
    body = response.json()
    assert body["code"] == response.status_code
    assert response.headers["connection"] == "close"
    return response.status_code, body["type"], body["message"]


@pytest.mark.parametrize(
    ("node", "body", "kind", "answer"),
    [
        ("m", b'{"a": 1}', "application/json", b"{'body': {'a': 1}}"),
        ("m", b"hi", "text/plain", b"hi"),
        ("m", b"a=b", "application/x-www-form-urlencoded", b"{'a': bytearray(b'b')}"),
        ("shout", b'{"a": 1}', "application/json; charset=utf-8", b"{'body': {'a': 1}}"),
        ("shout", b"raw", "image/png", b"{'body': bytearray(b'raw')}"),
        ("echo", b'{"a":[]}', "application/json", b'{\n  "a": []\n}'),
    ],
)
def test_every_node_reads_the_clients_body(alone, node, body, kind, answer):
    response = call(alone, f"/predictions/alone__{node}", body, content_type=kind)
    assert (response.status_code, response.content) == (200, answer)
    assert "content-type" not in response.headers
    assert response.headers["pragma"] == "no-cache"


def test_the_output_is_a_leafs_in_bytes_mode(alone):
    response = call(alone, "/predictions/alone__m", b"tensor", content_type="x/y")
    assert torch.load(io.BytesIO(response.content)).tolist() == [1.0, 1.0]


@pytest.mark.parametrize("method", ["GET", "DELETE", "PUT", "PATCH"])
def test_any_method(alone, method):
    response = call(alone, "/predictions/alone__m/", method=method)
    assert (response.status_code, response.content) == (200, b"")


@pytest.mark.parametrize(
    ("path", "explain", "url_path"),
    [
        ("/predictions/alone__m", "False", ""),
        ("/predictions/alone__m/2.5", "False", ""),
        ("/predictions/alone__m/2.5/x/y%20z?q=1", "False", "x/y z"),
        ("/explanations/alone__m", "True", ""),
        ("/explanations/alone__m/2.5/x", "True", "x"),
    ],
)
def test_the_handler_sees_what_was_asked(alone, path, explain, url_path):
    sent = {"content_type": "x/y", "x_own": "1", "explain": "mine"}
    seen = call(alone, path, b"headers", **sent).json()
    assert {"explain": explain, "url_path": url_path, "x-own": "1"}.items() <= seen.items()
    assert seen["body"] == {"content-type": "x/y"}


@pytest.mark.parametrize("given", [None, "mine", "11111111-2222-3333-4444-AAAAAAAAAAAA"])
def test_a_handler_knows_the_request_by_its_uuid(alone, given):
    response = call(alone, "/predictions/alone__m", b"id", **({"x_request_id": given} if given else {}))
    answered = response.headers["x-request-id"]
    assert answered == given or given is None
    assert (response.text == answered.lower()) is (given != "mine")


@pytest.mark.parametrize(
    ("word", "status", "body", "headers"),
    [
        (b"status", 201, b"made", {"x-thing": "a"}),
        (b"png", 200, b"png", {"content-type": "image/png"}),
        (b"empty", 204, b"", {}),
    ],
)
def test_what_the_handler_sets_on_the_response(alone, word, status, body, headers):
    for _ in range(2):  # the connection is as good as before
        response = call(alone, "/predictions/alone__m", word, content_type="x/y")
        assert (response.status_code, response.content) == (status, body)
        assert headers.items() <= dict(response.headers).items()


@pytest.mark.parametrize(
    ("word", "error"),
    [
        (b"raise", (503, "InternalServerException", "Prediction failed")),
        (b"cuda", (507, "InternalServerException", "Out of resources")),
        (b"refuse", (418, "InternalServerException", "not today")),
        (b"set", (503, "InternalServerException", "Unsupported model output data type.")),
        (b"die", (500, "InternalServerException", "Worker died.")),
        (b"hang", (500, "InternalServerException", "Worker died.")),
        (
            b"no status",
            (500, "InternalServerException", "The handler set 42, which is no status of a response."),
        ),
    ],
)
def test_what_goes_wrong(alone, word, error):
    assert error_of(call(alone, "/predictions/alone__m", word, content_type="x/y")) == error
    assert call(alone, "/predictions/alone__m", b"well", content_type="x/y").content == b"well"


@pytest.mark.parametrize(
    ("path", "error"),
    [
        ("/predictions/nope", ("ModelNotFoundException", "Model not found: nope")),
        ("/predictions/alone__none/1", ("ModelNotFoundException", "Model not found: alone__none")),
        ("/predictions/alone", ("ModelNotFoundException", "Model not found: alone")),
        ("/predictions/ALONE__m", ("ModelNotFoundException", "Model not found: ALONE__m")),
        (
            "/explanations/alone__m/9",
            ("ModelVersionNotFoundException", "Model version: 9 does not exist for model: alone__m"),
        ),
        *(
            (
                path,
                (
                    "ResourceNotFoundException",
                    "Requested resource is not found, please refer to API document.",
                ),
            )
            for path in ("/predictions", "/predictions/", "/Predictions/alone__m")
        ),
    ],
)
def test_nothing_there(alone, path, error):
    assert error_of(call(alone, path, b"x")) == (404, *error)


def test_a_function_has_version_1_0(alone):
    assert call(alone, "/predictions/alone__echo/1.0", b"x", content_type="a/b").content == b"x"


def test_predictions_belong_to_the_inference_port(alone):
    assert alone.call("POST", "/predictions/alone__m").status_code == 404


EXPLAINED = """
import sys
sys.modules["captum"] = None  # as if it were not installed
from ts.torch_handler.base_handler import BaseHandler
from ts.utils.util import captum_attr

class Model(BaseHandler):
    def initialize(self, context):
        pass

    def preprocess(self, data):
        return data

    def explain_handle(self, data, raw):
        if raw[0]["body"] == b"captum":
            captum_attr()
        return [{"explained": len(data)}] * len(data)
"""


def test_explanations(server, store):
    spec = "models:\n  m:\n    url: explained.mar\ndag:\n  m: []\n"
    server.register(pack_with(store, "explained", EXPLAINED, "", spec))
    try:
        explained = call(server, "/explanations/explained__m", b"x", content_type="x/y")
        refused = call(server, "/explanations/explained__m", b"captum", content_type="x/y")
    finally:
        server.call("DELETE", "/workflows/explained")
    assert explained.json() == {"explained": 1}
    assert error_of(refused) == (
        501,
        "InternalServerException",
        "explanations need the package captum, which is missing",
    )


def test_clients_that_leave_take_their_calls_along(server):
    leave_behind_another(server, "/predictions/obey__obey")


def test_walks_and_calls_share_a_node_and_keep_their_results(server):
    def walked(number):
        return server.predict("upper", b"walk %d" % number).content == b"WALK %d" % number

    def called(number):
        body = b'{"n": %d}' % number
        answer = call(server, "/predictions/upper__echo", body, content_type="application/json")
        return answer.json() == {"n": number}

    with ThreadPoolExecutor(8) as pool:
        futures = [pool.submit(walked if n % 2 else called, n) for n in range(100)]
        assert all(future.result() for future in futures)
