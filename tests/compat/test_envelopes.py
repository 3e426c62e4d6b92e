"""Envelopes: requests of several rows become one batch, and are answered one by one."""

from __future__ import annotations

import importlib
import json
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def through(context_of: Callable[..., Any]) -> Callable[..., Any]:
    """Send rows through an envelope to `handle`, which by default returns what it gets."""

    def send(
        name: str, rows: Any, handle: Callable[[Any], Any] = list, headers: dict[str, str] | None = None
    ) -> Any:
        module, class_name = name.split(".")
        envelope = getattr(importlib.import_module(f"ts.torch_handler.request_envelope.{module}"), class_name)
        context = context_of(headers=headers, size=len(rows or ()))
        return envelope(lambda data, _: handle(data)).handle(rows, context)

    return send


def v2(**changes: Any) -> dict[str, Any]:
    return {"name": "x", "shape": [2, 2], "datatype": "INT64", "data": [1, 2, 3, 4], **changes}


def test_body_unwraps(through: Callable[..., Any]) -> None:
    rows = [{"body": 1}, {"data": 2, "body": 3}, {"body": None}, {"left": 1, "right": 2}]
    assert through("body.BodyEnvelope", rows) == [1, 2, None, {"left": 1, "right": 2}]


def test_json_joins_instances_and_parts_predictions(through: Callable[..., Any]) -> None:
    rows = [{"body": {"instances": [1, 2]}}, {"data": {"instances": []}}, {"instances": [3]}]
    assert through("json.JSONEnvelope", rows) == [
        '{"predictions": [1, 2]}',
        '{"predictions": []}',
        '{"predictions": [3]}',
    ]


def test_json_decodes_base64(through: Callable[..., Any]) -> None:
    instances = [{"b64": "YQ=="}, {"x": {"b64": "Yg=="}, "y": {"b64": "Yg==", "z": 1}}]
    rows = [{"body": {"instances": instances}}]
    (answer,) = through("json.JSONEnvelope", rows, lambda data: [repr(each) for each in data])
    assert json.loads(answer)["predictions"] == ["b'a'", "{'x': b'b', 'y': {'b64': 'Yg==', 'z': 1}}"]


def test_a_later_node_gets_bytes(through: Callable[..., Any]) -> None:
    assert through("json.JSONEnvelope", [{"body": bytearray(b'{"instances": [1]}')}]) == [
        '{"predictions": [1]}'
    ]
    assert through("kserve.KServeEnvelope", [{"body": b'{"instances": [1]}'}]) == [{"predictions": [1]}]


def test_kserve_predicts_or_explains(through: Callable[..., Any]) -> None:
    rows = [{"body": {"instances": [1, 2]}}, {"body": {"instances": [3]}}]
    assert through("kserve.KServeEnvelope", rows) == [{"predictions": [1, 2]}, {"predictions": [3]}]
    explain = {"explain": "True"}
    assert through("kserve.KServeEnvelope", rows[:1], lambda _: {"why": 1}, explain) == [
        {"explanations": {"why": 1}}
    ]


def test_kserve_v2_answers_each_input_by_name(through: Callable[..., Any]) -> None:
    rows = [
        {"body": {"id": "mine", "inputs": [v2(), v2(name="y", datatype="BYTES", data=["hi"])]}},
        {"body": {"id": " ", "inputs": [v2(name="z", shape=[4])]}},
    ]
    seen: list[Any] = []

    def handle(data: Any) -> Any:
        seen.extend(data)
        return [each["data"] for each in data]

    first, second = through("kservev2.KServev2Envelope", rows, handle)
    assert [each["data"] for each in seen] == [[[1, 2], [3, 4]], "hi", [1, 2, 3, 4]]
    assert first == {
        "id": "mine",
        "model_name": "m",
        "model_version": "2.0",
        "outputs": [
            {"name": "x", "datatype": "INT64", "data": [1, 2, 3, 4], "shape": [4]},
            {"name": "y", "datatype": "BYTES", "data": ["hi"], "shape": [1]},
        ],
    }
    assert (second["id"], second["outputs"][0]["name"]) == ("id-1", "z")


@pytest.mark.parametrize(
    ("result", "datatype"),
    [
        (True, "BOOL"),
        (0.5, "FP64"),
        (np.float32(1), "FP32"),
        (np.float16(1), "FP16"),
        (np.uint8(1), "UINT8"),
        (np.int32(1), "INT32"),
        ({"a": 1}, "BYTES"),
    ],
)
def test_kserve_v2_names_the_type_of_an_output(
    through: Callable[..., Any], result: Any, datatype: str
) -> None:
    (answer,) = through("kservev2.KServev2Envelope", [{"body": {"inputs": [v2()]}}], lambda _: [result])
    assert answer["outputs"][0]["datatype"] == datatype


@pytest.mark.parametrize(
    ("envelope", "row", "match"),
    [
        ("json.JSONEnvelope", {"body": b"{"}, "not JSON"),
        ("json.JSONEnvelope", {"body": [1]}, 'a list of "instances"'),
        ("json.JSONEnvelope", {"body": {"instances": 1}}, 'a list of "instances"'),
        ("json.JSONEnvelope", {"left": b"1", "right": b"2"}, 'a list of "instances"'),
        ("json.JSONEnvelope", {"body": {"instances": [{"b64": "a"}]}}, "not base64"),
        ("json.JSONEnvelope", {"body": {"instances": [{"b64": 1}]}}, "not base64"),
        ("kserve.KServeEnvelope", {}, 'a list of "instances"'),
        ("kservev2.KServev2Envelope", {"body": {"inputs": {}}}, 'a list of "inputs"'),
        ("kservev2.KServev2Envelope", {"body": {"inputs": [1]}}, "input '' does not follow"),
        ("kservev2.KServev2Envelope", {"body": {"inputs": [v2(shape=[3])]}}, "input 'x' does not follow"),
        (
            "kservev2.KServev2Envelope",
            {"body": {"inputs": [v2(datatype="BYTES", data=[])]}},
            "input 'x' does not",
        ),
        ("kservev2.KServev2Envelope", {"body": {"inputs": [{"name": "x"}]}}, "input 'x' does not follow"),
    ],
)
def test_what_breaks_the_protocol_is_the_clients_error(
    through: Callable[..., Any], envelope: str, row: Any, match: str
) -> None:
    from ts.utils.util import PredictionException

    with pytest.raises(PredictionException, match=match) as caught:
        through(envelope, [row])
    assert caught.value.error_code == 400


def test_the_call_at_load_passes_through(through: Callable[..., Any]) -> None:
    assert through("json.JSONEnvelope", None, lambda data: data) is None
