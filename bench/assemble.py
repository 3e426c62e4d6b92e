"""A batch of 32 images becomes one tensor: where it lies, gathered, and by `torch.stack` of the same rows.

The rows are tensors over shared memory, as a native handler gets them: neighbours in a slab, or in an order
in which none follows its neighbour. Allocating what `torch.stack` returns is part of what it costs; what is
gathered goes into memory that an earlier batch had, as in a worker.
"""

from __future__ import annotations

import statistics
import time
from typing import TYPE_CHECKING

import torch

from wfserve.child.batch import Batch, Rooms
from wfserve.child.codec import decode_native, decode_run
from wfserve.child.inputs import Inputs
from wfserve.child.spec import WorkerSpec
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.message import Ref
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfserve.transport.base import ChildLink, Loan

ROWS = 32
SHAPE = (3, 224, 224)
ROUNDS = 10
TURN = 5
SPEC = WorkerSpec("bench", "", "", data_format="native")


def refs(loan: Loan, images: torch.Tensor, order: Sequence[int]) -> list[Ref]:
    """Fill a slab with images; return where they lie, in some order."""
    size = images[0].nbytes
    loan.buffer[: images.nbytes] = memoryview(images.numpy()).cast("B")
    header, place = pack_header(Kind.TENSOR, size, "float32", SHAPE), loan.descriptor
    return [Ref(header, place._replace(offset=place.offset + row * size, length=size)) for row in order]


def batch_of(link: ChildLink, places: Sequence[Ref], rooms: Rooms) -> Batch:
    """Return the rows as a handler gets them."""
    inputs = Inputs(link)
    values = decode_run(places, inputs) or [decode_native(ref, inputs) for ref in places]
    return Batch([{"body": value} for value in values], inputs, rooms, SPEC)


def figures() -> dict[str, float]:
    """Return the median times of each way, µs, and how many times as fast as `torch.stack` ours are."""
    images = torch.randn(ROWS, *SHAPE)
    apart = [*range(0, ROWS, 2), *range(1, ROWS, 2)]
    with ShmTransport(1 << 27) as transport:
        link, port = transport.connect()
        loan = transport.arena.loan(images.nbytes)
        in_place, gathered = (
            batch_of(port.attach(), refs(loan, images, order), Rooms()) for order in (range(ROWS), apart)
        )
        assert torch.equal(in_place.tensor(), images)
        assert torch.equal(gathered.tensor(), images[apart])
        times = timed(
            {
                "in_place": in_place.tensor,
                "gathered": gathered.tensor,
                "stack_neighbours": lambda: torch.stack([row["body"] for row in in_place]),
                "stack_apart": lambda: torch.stack([row["body"] for row in gathered]),
            }
        )
        loan.release()
        link.close()
    numbers = {f"assemble_{name}_us": us for name, us in times.items()}
    numbers["assemble_in_place"] = times["stack_neighbours"] / times["in_place"]
    numbers["assemble_gathered"] = times["stack_apart"] / times["gathered"]
    return numbers


def timed(ways: dict[str, Callable[[], torch.Tensor]]) -> dict[str, float]:
    """Return the median time of each (µs), in turns of `TURN`; a result is dropped before the next.

    The first of a turn finds the caches full of the others' images.
    """
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            for _ in range(TURN):
                begun = time.perf_counter()
                batch = way()
                times[name].append((time.perf_counter() - begun) * 1e6)
                del batch
    return {name: statistics.median(each) for name, each in times.items()}
