"""A body that is itself a batch: each row is an input, several workers share them, and the answer is one."""

import io
import json

import numpy as np
import orjson
import pytest
import trio

from tests.archives import pack, pack_handler
from tests.registries import registry
from tests.support import payload
from wfserve.dag.walk import Request
from wfserve.errors import InternalError

MODEL = """
import os, time

def handle(data, context):
    if data is None:
        return None
    rows = data.tensor()
    if (rows < 0).any():
        raise ValueError("negative")
    return [[len(data), os.getpid(), row.sum().item()] for row in rows]
"""
DOUBLE = """
def handle(data, context):
    return data and list(data.tensor() * 2)
"""
SPEC = """
models:
  data-format: native
  batch-size: 4
  min-workers: {workers}
  max-workers: {workers}
  retry-attempts: 0
  m: {{url: {model}.mar, input-shape: [3]}}
dag:
  m: []
"""
RAW = [("content-type", "application/octet-stream")]


@pytest.fixture
def archives(store):
    pack_handler(store, "sums", MODEL)
    pack_handler(store, "double", DOUBLE)
    for model in ("sums", "double"):
        for workers in (1, 2):
            pack(store, f"{model}{workers}", SPEC.format(model=model, workers=workers))


async def ask(opened, name, body, headers=RAW):
    workflow = opened.lookup(name)
    request = Request(
        payload(opened._transport, orjson.dumps(headers)), payload(opened._transport, bytes(body))
    )
    answer = await workflow.predict(request)
    (done,) = answer.leaves.values()
    try:
        return bytes(done.payload.borrow())
    finally:
        answer.release()


def numbers(count):
    return np.arange(3 * count, dtype=np.float32).reshape(count, 3)


@pytest.mark.parametrize("workers", [1, 2])
@pytest.mark.parametrize("count", [1, 3, 4, 5, 10, 33])
async def test_every_row_is_answered_in_order(config, archives, workers, count):
    async with registry(config) as opened:
        await opened.register(f"sums{workers}.war")
        answer = json.loads(await ask(opened, f"sums{workers}", numbers(count).tobytes()))
        answers = [answer] if count == 1 else answer  # one row alone is an input like any other
        assert [each[2] for each in answers] == numbers(count).sum(1).tolist()
        assert max(each[0] for each in answers) <= 4
        if count == 33:
            assert len({pid for _, pid, _ in answers}) == workers


@pytest.mark.parametrize("workers", [1, 2])
async def test_tensors_come_back_as_one_in_the_form_that_is_accepted(config, archives, workers):
    async with registry(config) as opened:
        await opened.register(f"double{workers}.war")
        headers = [*RAW, ("accept", "application/x-npy")]
        with trio.fail_after(20):
            body = await ask(opened, f"double{workers}", numbers(9).tobytes(), headers)
        assert np.array_equal(np.load(io.BytesIO(body)), numbers(9) * 2)


async def test_rows_in_json_are_shared_out_too(config, archives):
    async with registry(config) as opened:
        await opened.register("sums2.war")
        headers = [("content-type", "application/json"), ("X-Tensor-Dtype", "float32")]
        body = json.dumps(numbers(11).tolist()).encode()
        answers = json.loads(await ask(opened, "sums2", body, headers))
        assert [each[2] for each in answers] == numbers(11).sum(1).tolist()


@pytest.mark.parametrize("workers", [1, 2])
async def test_a_row_that_fails_fails_the_request_and_no_other(config, archives, workers):
    bad = numbers(9)
    bad[7] = -1
    async with registry(config) as opened:
        await opened.register(f"sums{workers}.war")
        outcomes = {}

        async def send(name, rows):
            try:
                outcomes[name] = len(json.loads(await ask(opened, f"sums{workers}", rows.tobytes())))
            except InternalError as error:
                outcomes[name] = error.message

        async with trio.open_nursery() as nursery:
            nursery.start_soon(send, "bad", bad)
            for number in range(2, 8):
                nursery.start_soon(send, number, numbers(number))
        assert outcomes == {"bad": "Error executing m"} | {number: number for number in range(2, 8)}


async def test_what_is_no_number_of_rows_is_refused(config, archives):
    async with registry(config) as opened:
        await opened.register("sums2.war")
        with pytest.raises(Exception, match="not float32"):
            await ask(opened, "sums2", bytes(13))
        assert json.loads(await ask(opened, "sums2", numbers(1).tobytes()))[0] == 1


async def test_what_a_client_gives_up_leaves_nothing(config, archives):
    async with registry(config) as opened:
        await opened.register("sums2.war")
        for wait in (0.0, 0.002, 0.01):
            with trio.move_on_after(wait):
                await ask(opened, "sums2", numbers(400).tobytes())
        assert len(json.loads(await ask(opened, "sums2", numbers(9).tobytes()))) == 9
        assert opened.lookup("sums2").in_flight == 0


async def test_rows_of_nodes_that_share_workers(config, store, archives):
    for name in ("x", "y"):
        spec = SPEC.format(model="sums", workers=2).replace("input-shape", "share: on, input-shape")
        pack(store, name, spec)
    async with registry(config) as opened:
        for name in ("x", "y"):
            await opened.register(f"{name}.war")
        assert opened.lookup("x").sharing("m") == ["y__m"]
        found = {}

        async def fetch(name, count):
            found[name] = orjson.loads(await ask(opened, name, numbers(count).tobytes()))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(fetch, "x", 10)
            nursery.start_soon(fetch, "y", 7)
        for name, count in (("x", 10), ("y", 7)):
            assert [row[2] for row in found[name]] == numbers(count).sum(axis=1).tolist()
            assert max(row[0] for row in found[name]) <= 4
