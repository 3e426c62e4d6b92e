"""One loaded handler serves nodes of many workflows, each where it stands."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest

from wfserve.child.main import PLACES
from wfserve.child.spec import Place
from wfserve.transport.frame import Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.child.spec import WorkerSpec

    Make = Callable[..., WorkerSpec]

# It counts its calls, and returns by which name it was called with which rows.
CODE = """
calls = []

def handle(data, context):
    if data is None:
        calls.append(context.model_name)
        return None
    calls.append(context.model_name)
    context.metrics.add_counter("calls", 1)
    return [{"row": {k: bytes(v).decode() for k, v in data[0].items()}, "calls": list(calls)}]
"""
START = Place("a__m", (), leaf=True, only_leaf=True)
BEHIND = Place("b__m", ("only",), leaf=True, only_leaf=True)
JOIN = Place("c__m", ("left", "right"))


def test_each_call_is_of_its_place(server: Any, archive: Make) -> None:
    calls = [
        server.call(tag, server.item(*[server.put(b"x")] * inputs), place=place.encoded())
        for tag, (place, inputs) in enumerate([(START, 1), (JOIN, 2), (BEHIND, 1), (START, 1)], 1)
    ]
    _, *done = server.run(archive(CODE, name="m"), *calls)
    results = [json.loads(server.results(each)[0].data) for each in done]
    assert [each["row"] for each in results] == [
        {"body": "x"},
        {"left": "x", "right": "x"},
        {"body": "x"},
        {"body": "x"},
    ]
    assert results[-1]["calls"] == ["m", "a__m", "c__m", "b__m", "a__m"]
    recorded = [json.loads(server.reply(each).ran[0].metrics)[0][-1]["ModelName"] for each in done]
    assert recorded == ["a__m", "c__m", "b__m", "a__m"]


@pytest.mark.parametrize(("place", "kind"), [(START, Kind.JSON), (JOIN, Kind.OBJECT)])
def test_results_go_where_the_place_says(server: Any, archive: Make, place: Place, kind: Kind) -> None:
    code = "def handle(data, context):\n    return data and [(1, 2) for _ in data]\n"
    spec = archive(code, name="m", data_format="native")
    inputs = [server.put(b"x")] * max(1, len(place.parents))
    (result,) = server.batch(spec, server.item(*inputs), place=place.encoded())
    assert result.kind == kind


def test_an_envelope_opens_what_comes_from_clients_only(server: Any, archive: Make) -> None:
    code = "def handle(data, context):\n    return data and [row for row in data]\n"
    spec = archive(code, name="m", service_envelope="json")
    body = server.put(b'{"instances": [1, 2]}')
    sent = {"content-type": "application/json"}
    given = server.item(body, headers=sent)
    _, start = server.run(spec, server.call(1, given, place=START.encoded()))
    assert server.results(start)[0].json() == {"predictions": [1, 2]}
    _, inner = server.run(spec, server.call(1, given, place=Place("b__m").encoded()))
    assert server.results(inner)[0].kind == Kind.OBJECT


def test_places_beyond_those_remembered(server: Any, archive: Make) -> None:
    places = [Place(f"w{number}__m").encoded() for number in range(PLACES + 2)]
    item = server.item(server.put(b"x"))
    calls = [server.call(tag, item, place=place) for tag, place in enumerate([*places, places[0]], 1)]
    _, *done = server.run(archive(CODE, name="m"), *calls)
    last = json.loads(server.results(done[-1])[0].data)["calls"]
    assert last == ["m", *(f"w{number}__m" for number in range(PLACES + 2)), "w0__m"]
