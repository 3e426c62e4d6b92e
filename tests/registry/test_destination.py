"""A body is received where its model reads it: from the socket's bytes to a batch's tensor without a copy."""

import pytest
import torch
import trio

from tests.archives import pack, pack_handler
from tests.registries import registry
from tests.support import payload, text
from wfserve.dag.walk import Request
from wfserve.errors import ServiceUnavailableError
from wfserve.http.body import Gone, arrived_body, read_body
from wfserve.http.exchange import BODY_INTO
from wfserve.registry.measures import readings
from wfserve.transport.slab import Slabs

SHAPE = (3, 7, 191)  # its rows are no multiple of 64 bytes
MODEL = """
def handle(data, context):
    return data and [[len(data), value] for value in data.tensor().mean((1, 2, 3)).tolist()]
"""
SPEC = """
models:
  data-format: native
  batch-size: 8
  m: {url: mean.mar, input-shape: [3, 7, 191]}
dag:
  m: []
"""
VALUES = [torch.full(SHAPE, float(number)) for number in range(8)]
NBYTES = VALUES[0].nbytes


@pytest.fixture
async def opened(config, store):
    pack_handler(store, "mean", MODEL)
    pack(store, "mean", SPEC)
    async with registry(config) as made:
        yield made


async def received(body, lender, *, early=False):
    """A body as our server receives it; an `early` one has come with its head."""

    async def receive_into(view):
        if body is None:
            return None
        view[:] = body
        return len(body)

    extension = {"receive_into": receive_into, "arrived": lambda: body if early else None}
    extensions = {BODY_INTO: extension}
    scope = {"headers": [(b"content-length", b"%d" % NBYTES)], "extensions": extensions}
    whole = arrived_body(scope, NBYTES, lender, 2 * NBYTES)
    return await read_body(scope, None, lender, 2 * NBYTES) if whole is None else whole


async def answers(opened, workflow, lender):
    """What the model says of all values, which are there at one moment, not in the order they lie in."""
    rows = [value.numpy().tobytes() for value in VALUES]
    bodies = [await received(row, lender, early=number % 2 == 0) for number, row in enumerate(rows)]
    found = {}

    async def ask(number):
        answer = await workflow.predict(Request(payload(opened._transport, b"[]"), bodies[number]))
        found[number] = text(answer.leaves["m"].payload)
        answer.release()

    async with trio.open_nursery() as nursery:
        for number in (3, 1, 0, 2, 7, 6, 5, 4):
            nursery.start_soon(ask, number)
    return found


async def copies(opened):
    (node,) = await readings(opened)
    return node.measured.copies


EXPECTED = {number: f"[8,{float(number)}]" for number in range(8)}


async def test_rows_of_a_slab_are_the_batch(opened):
    workflow = await opened.register("mean.war")
    slabs = Slabs(opened.arena, 8, NBYTES)
    idle = opened.arena.statistics().slots
    for _ in range(5):
        assert await answers(opened, workflow, slabs) == EXPECTED
        slabs.rest()
        assert opened.arena.statistics().slots == idle
    assert await copies(opened) == 0


async def test_rows_that_lie_apart_are_copied_once(opened):
    workflow = await opened.register("mean.war")
    assert await answers(opened, workflow, opened.arena) == EXPECTED
    assert await copies(opened) == 8


async def test_a_client_that_leaves_while_it_sends_leaves_a_gap(opened):
    slabs = Slabs(opened.arena, 8, NBYTES)
    bodies = [await received(bytes(NBYTES), slabs)]
    with pytest.raises(Gone):
        await received(None, slabs)
    bodies.append(await received(bytes(NBYTES), slabs))
    starts = [body.descriptor.offset for body in bodies]
    assert starts[1] != starts[0] + NBYTES
    for body in bodies:
        body.release()
    slabs.rest()


async def test_rows_read_while_the_workflow_leaves_keep_no_slab(opened):
    workflow = await opened.register("mean.war")
    idle = opened.arena.statistics().slots
    body = await received(VALUES[0].numpy().tobytes(), workflow.bodies)
    workflow.close()
    with pytest.raises(ServiceUnavailableError, match="unregistered"):
        await workflow.predict(Request(payload(opened._transport, b"[]"), body))
    assert opened.arena.statistics().slots <= idle
