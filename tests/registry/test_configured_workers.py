"""What the configuration says of handlers holds in every worker of a workflow."""

import dataclasses
import json
from types import SimpleNamespace

import orjson
import pytest

from tests.archives import chain, pack
from tests.registries import predict, registry
from tests.support import payload, text
from wfserve.dag.walk import Request

NUMBERS = """
import os

def start(data, context):
    return data and [each + 1 for each in data]

def left(data, context):
    return data and [each * 10 for each in data]

def right(data, context):
    return data and [each * 100 for each in data]

def join(data, context):
    return data and [row["left"] + row["right"] for row in data]

def path(data, context):
    return data and [os.environ.get("PATH", "hidden") for _ in data]

def count(data, context):
    context.metrics.get_metric("Seen").add_or_update(1, ["a"])
    return data and ["counted"] * len(data)
"""
DIAMOND = "models: {}\ndag:\n  start: [left, right]\n  left: [join]\n  right: [join]\n"
METRICS = "model_metrics:\n  counter:\n    - {name: Seen, unit: count, dimensions: [Kind]}\n"


@pytest.mark.parametrize(
    ("envelope", "key"), [("json", "predictions"), ("kserve", "predictions"), ("kservev2", "outputs")]
)
async def test_an_envelope_around_a_diamond(config, store, envelope, key):
    pack(store, "sums", DIAMOND if envelope != "kservev2" else _V2, NUMBERS + _VALUES)
    config = dataclasses.replace(config, service_envelope=envelope)
    sent = {"instances": [1, 2]}
    if envelope == "kservev2":
        data = [{"name": str(n), "shape": [1], "datatype": "INT64", "data": [n]} for n in (1, 2)]
        sent = {"id": "mine", "inputs": data}
    async with registry(config) as opened:
        workflow = await opened.register("sums.war")
        answer = json.loads(await predict(workflow, json.dumps(sent).encode(), opened))
    got = answer[key]
    if envelope == "kservev2":
        assert answer["id"] == "mine"
        got = [output["data"][0] for output in got]
    assert got == [220, 330]


_V2 = DIAMOND.replace("start", "values")
_VALUES = """
def values(data, context):
    return data and [each["data"][0] + 1 for each in data]
"""


@pytest.mark.parametrize(("pattern", "hidden"), [("", False), ("PA", False), ("PA.H", True)])
async def test_variables_that_handlers_must_not_see(config, store, pattern, hidden):
    """One that the fork server has in any case, whenever it was started."""
    pack(store, "path", chain("path"), NUMBERS)
    async with registry(dataclasses.replace(config, blacklist_env_vars=pattern)) as opened:
        assert (await predict(await opened.register("path.war"), b"", opened) == "hidden") is hidden


async def test_metrics_that_a_file_defines(config, store, tmp_path):
    (tmp_path / "metrics.yaml").write_text(METRICS)
    pack(store, "count", chain("count"), NUMBERS)
    async with registry(dataclasses.replace(config, metrics_config=tmp_path / "metrics.yaml")) as opened:
        workflow = await opened.register("count.war")
        seen = []
        pool = workflow.pools["count"]
        stage = pool._listener

        def batch_done(batch, outcomes):
            seen.append(orjson.loads(batch.ran[0].metrics))
            stage.batch_done(batch, outcomes)

        pool._listener = SimpleNamespace(batch_done=batch_done)
        request = Request(payload(opened._transport, b"[]"), payload(opened._transport, b""))
        done = await workflow.call_node("count", request)
        assert text(done.payload) == "counted"
        done.payload.release()
    # Once when it was loaded, once for the call.
    assert seen == [[["Seen", "Count", "counter", 2.0, {"Kind": "a"}]]]
