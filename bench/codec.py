"""A tensor through the bytes codec and back, against `torch.save` and `torch.load` of the same tensor.

Through the codec: encoded into a slot of shared memory as a node leaves it, decoded into the bytearray that
the next handler is owed, and loaded from that. Against it: saved to bytes and loaded from them, which leaves
out what it costs to hand those to another process. All run in turns within one run, and are checked.
"""

from __future__ import annotations

import argparse
import io
import statistics
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch

from bench.goals import write
from wfserve.child import codec, container, npy, objects, safetensors
from wfserve.child.inputs import Inputs
from wfserve.transport.message import Ref
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

CALLS = 100  # a round
ROUNDS = 20
SHAPES = {"10": (10,), "3x224x224": (3, 224, 224)}
NOBODY = objects.Archive("/nonexistent")


class Way(NamedTuple):
    """A tensor to bytes (or a reference to them), and those back to a tensor."""

    name: str
    there: Callable[[], Any]
    back: Callable[[Any], torch.Tensor]


def ways(value: torch.Tensor, link: Any, loan: Any) -> list[Way]:
    """Return the ways to measure; the first is the codec's, the second what it is held against."""
    inputs = Inputs(link)
    encode = codec.encoder_for("bytes", False, NOBODY)

    def encoded() -> Ref:
        frame = encode(value, inputs)
        place = loan.descriptor._replace(length=frame.nbytes)
        frame.write(link.map(place))
        return Ref(frame.header, place)

    def saved() -> bytes:
        file = io.BytesIO()
        torch.save(value, file)
        return file.getvalue()

    return [
        Way("codec", encoded, lambda ref: container.load(memoryview(codec.decode_bytes(ref, inputs)))),
        Way("torch.save, torch.load", saved, torch_load),
        Way("codec, torch.load", encoded, lambda ref: torch_load(codec.decode_bytes(ref, inputs))),
        Way(
            "container", lambda: written(container.save(value)), lambda data: container.load(memoryview(data))
        ),
        Way("npy", lambda: written(npy.save(value)), lambda data: npy.load(memoryview(data))),
        Way(
            "safetensors",
            lambda: written(safetensors.save(value)),
            lambda data: safetensors.load(data)["output"],
        ),
    ]


def torch_load(data: bytes | bytearray) -> torch.Tensor:
    """Load a container as a handler does."""
    loaded: torch.Tensor = torch.load(io.BytesIO(data), weights_only=True)
    return loaded


def written(sized: Any) -> memoryview:
    """Write what is ready to be written."""
    data = memoryview(bytearray(sized.nbytes))
    sized.write(data)
    return data


def measure(value: torch.Tensor, rounds: int, calls: int) -> dict[str, tuple[float, float]]:
    """Return the median times there and back of each way, µs."""
    with ShmTransport(1 << 26) as transport:
        link, port = transport.connect()
        child = port.attach()
        loan = transport.arena.loan(value.nbytes)
        times: dict[str, list[tuple[float, float]]] = {}
        for number in range(rounds + 1):
            for way in ways(value, child, loan):
                assert torch.equal(way.back(way.there()), value)
                if number:
                    times.setdefault(way.name, []).append(timed(way, calls))
        loan.release()
        link.close()
    return {name: summary(each) for name, each in times.items()}


def timed(way: Way, calls: int) -> tuple[float, float]:
    """Return the mean times of a call there and of one back, µs."""
    there = back = 0
    for _ in range(calls):
        start = time.perf_counter_ns()
        data = way.there()
        turn = time.perf_counter_ns()
        way.back(data)
        back += time.perf_counter_ns() - turn
        there += turn - start
    return there / calls / 1000, back / calls / 1000


def summary(times: Sequence[tuple[float, float]]) -> tuple[float, float]:
    """Return the medians of both directions."""
    return statistics.median(each[0] for each in times), statistics.median(each[1] for each in times)


def figures(calls: int = CALLS) -> dict[str, float]:
    """Measure both tensors, print tables, return the numbers."""
    numbers = {}
    print(f"{'float32, µs':<36}{'there':>8}{'back':>8}{'both':>8}")
    for label, shape in SHAPES.items():
        times = measure(torch.randn(shape), ROUNDS, calls)
        for name, (there, back) in times.items():
            print(f"{f'{label}: {name}':<36}{there:>8.1f}{back:>8.1f}{there + back:>8.1f}")
        baseline = sum(times["torch.save, torch.load"])
        numbers[f"torch_save_speedup_{label}"] = baseline / sum(times["codec"])
        numbers[f"torch_save_only_speedup_{label}"] = baseline / sum(times["codec, torch.load"])
    numbers["torch_save_speedup"] = min(numbers[f"torch_save_speedup_{label}"] for label in SHAPES)
    return numbers


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--calls", type=int, default=CALLS, help="calls a round (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    numbers = figures(arguments.calls)
    for name, number in numbers.items():
        print(f"{name:<44}{number:>8.2f}")
    write(arguments.json, numbers)


if __name__ == "__main__":
    main()
