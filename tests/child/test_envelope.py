"""With an envelope a workflow speaks its protocol outside, and hands its rows on inside."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.child.spec import WorkerSpec

    Make = Callable[..., WorkerSpec]

SHOW = """
    def handle(data, context):
        return data and [(type(row).__name__, row) for row in data]
"""
REPR = """
    def handle(data, context):
        return data and [repr(row) for row in data]
"""
TENSORS = """
    import torch

    def handle(data, context):
        return data and [{"image": torch.full((2,), float(row)), "raw": b"x"} for row in data]
"""
SUMS = """
    def handle(data, context):
        return data and [float(row["image"].sum()) + len(row["raw"]) for row in data]
"""
JOIN = """
    def handle(data, context):
        return data and [sorted(row.items()) for row in data]
"""
ONCE = """
    def handle(data, context):
        return data and ["once"]
"""


def instances(server: Any, *values: Any, **headers: str) -> Any:
    body = server.put(json.dumps({"instances": values}).encode())
    return server.item(body, headers={"content-type": "application/json", **headers})


def handed_on(server: Any, spec: WorkerSpec, *items: Any) -> list[Any]:
    """Run a node in a fresh child, and return what its children are given."""
    _, done = server.run(spec, server.call(1, *items))
    return [result.ref for result in server.reply(done).results]


@pytest.mark.parametrize("data_format", ["bytes", "native"])
def test_one_node_unwraps_and_wraps(server: Any, archive: Make, data_format: str) -> None:
    spec = archive(SHOW, leaf=True, service_envelope="kserve", data_format=data_format)
    first, second = server.batch(spec, instances(server, 1, "b"), instances(server, {"c": 3}))
    assert first.json() == {"predictions": [["int", 1], ["str", "b"]]}
    assert second.json() == {"predictions": [["dict", {"c": 3}]]}


@pytest.mark.parametrize("data_format", ["bytes", "native"])
@pytest.mark.parametrize("function", [True, False])
def test_rows_stay_rows_through_a_chain(server: Any, archive: Make, data_format: str, function: bool) -> None:
    common = {"service_envelope": "json", "data_format": data_format, "is_function": function}
    start = archive(TENSORS, **common)
    given = handed_on(server, start, instances(server, 1, 2), instances(server, 3))
    leaf = archive(SUMS, parents=("start",), leaf=True, **common)
    results = server.batch(leaf, *(server.item(each) for each in given))
    assert [each.json() for each in results] == [{"predictions": [3.0, 5.0]}, {"predictions": [7.0]}]


def test_several_parents_give_a_row_each_a_part(server: Any, archive: Make) -> None:
    start = archive(SHOW, service_envelope="json")
    (given,) = handed_on(server, start, instances(server, 1, 2))
    joint = archive(JOIN, parents=("a", "b"), leaf=True, service_envelope="json")
    (result,) = server.batch(joint, server.item(given, given, parents=(1, 0)))
    assert result.json() == {
        "predictions": [[["a", ["int", n]], ["b", ["int", n]]] for n in (1, 2)],
    }


def test_v2_names_and_id_come_back_at_the_leaf(server: Any, archive: Make) -> None:
    inputs = [{"name": name, "shape": [1], "datatype": "INT64", "data": [7]} for name in ("x", "y")]
    body = server.put(json.dumps({"id": "mine", "inputs": inputs}).encode())
    start = archive(
        "def handle(data, context):\n    return data and [row['data'] for row in data]\n",
        service_envelope="kservev2",
    )
    (given,) = handed_on(server, start, server.item(body))
    leaf = archive(
        "def handle(data, context):\n    return data\n",
        parents=("start",),
        leaf=True,
        service_envelope="kservev2",
    )
    (result,) = server.batch(leaf, server.item(given))
    assert result.json()["id"] == "mine"
    assert [each["name"] for each in result.json()["outputs"]] == ["x", "y"]
    assert [each["data"] for each in result.json()["outputs"]] == [[7], [7]]


def test_a_later_node_called_directly_speaks_the_protocol(server: Any, archive: Make) -> None:
    spec = archive(SHOW, parents=("a", "b"), service_envelope="kserve")
    (result,) = server.batch(spec, instances(server, 5, explain="True"), direct=True)
    assert result.json() == {"explanations": [["int", 5]]}


@pytest.mark.parametrize("data_format", ["bytes", "native"])
@pytest.mark.parametrize("envelope", ["", "json", "kserve", "kservev2"])
def test_a_handler_that_is_to_describe_itself_gets_an_empty_row(
    server: Any, archive: Make, envelope: str, data_format: str
) -> None:
    spec = archive(REPR, parents=("a",), service_envelope=envelope, data_format=data_format)
    asking = server.item(server.put(b""), headers={"describe": "True"})
    (result,) = server.batch(spec, asking, direct=True)
    assert result.data.decode() == "{}"


def test_a_request_of_a_workflow_has_its_row_whatever_its_headers(server: Any, archive: Make) -> None:
    asking = server.item(server.put(b""), headers={"describe": "True"})
    (result,) = server.batch(archive(REPR, leaf=True), asking)
    assert result.data.decode() == "{'body': bytearray(b'')}"


def test_who_sends_something_with_that_header_has_to_keep_to_the_protocol(server: Any, archive: Make) -> None:
    spec = archive(SHOW, service_envelope="kserve")
    headers = {"describe": "True", "content-type": "application/x-www-form-urlencoded"}
    for direct, sent in ((True, {"x": 1}), (False, {})):
        body = server.put(urlencode(sent).encode())
        (fault,) = server.batch(spec, server.item(body, headers=headers), direct=direct)
        assert (fault.code, fault.kind) == (400, "PredictionException")
    (result,) = server.batch(spec, instances(server, 5, describe="True"), direct=True)
    assert result.json() == {"predictions": [["int", 5]]}


@pytest.mark.parametrize(
    ("parents", "row"), [((), "hi"), (("one",), bytearray(b"hi")), (("a", "b"), {"a": bytearray(b"hi")})]
)
def test_body_unwraps_wherever_there_is_something_to_unwrap(
    server: Any, archive: Make, parents: tuple[str, ...], row: Any
) -> None:
    spec = archive(REPR, parents=parents, leaf=True, service_envelope="body")
    text = server.item(server.put(b"hi"), headers={"content-type": "text/plain"})
    (result,) = server.batch(spec, text)
    assert result.data.decode() == repr(row)


def test_a_request_that_breaks_the_protocol_is_the_clients_error(server: Any, archive: Make) -> None:
    (fault,) = server.batch(archive(SHOW, leaf=True, service_envelope="json"), server.item(server.put(b"{}")))
    assert (fault.code, fault.kind) == (400, "PredictionException")


@pytest.mark.parametrize("leaf", [True, False])
def test_results_that_are_not_one_a_row(server: Any, archive: Make, leaf: bool) -> None:
    spec = archive(ONCE, leaf=leaf, service_envelope="json")
    faults = server.batch(spec, instances(server, 1, 2), instances(server, 3))
    assert [each.message for each in faults] == ["number of batch response mismatched"] * 2
    (alone,) = server.batch(spec, instances(server, 1, 2))
    if leaf:  # as TorchServe: one request is answered with whatever there is
        assert alone.json() == {"predictions": ["once"]}
    else:
        assert alone.message == "number of batch response mismatched"


def test_a_result_of_nothing(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context):\n    return None\n", leaf=True, service_envelope="json")
    (fault,) = server.batch(spec, instances(server, 1))
    assert fault.message == "Invalid model predict output"


def test_an_unknown_envelope_is_no_handler(server: Any, archive: Make) -> None:
    (failed,) = server.run(archive(SHOW, service_envelope="nope"))
    assert "ModuleNotFoundError" in server.failure(failed).message
