"""What crossing a process boundary costs, a figure and a goal a line; the ratios are of one run.

    python -m bench.transport [--json FILE]

Whatever is held against something else runs in turns with it, so that what the machine does besides falls on
both alike. Every figure is a median. Hops run between two cores where there are two: the server, or what
stands for it, on the first, the other end on the last.
"""

from __future__ import annotations

import argparse
import os
import statistics
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import trio

from bench import assemble, codec, copies, hop
from bench.cores import ends, on_core
from bench.echo import PipeEcho, QueueEcho, echo_pool, payload_of, time_hops
from bench.goals import Goal, show, write
from wfserve.workers.process import warm_up

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bench.echo import Echo

GOALS = (
    Goal("hop_vs_pipe", "a ring's hop, awaited on Trio, against a blocking ping-pong over pipes", 0.8),
    Goal("hop_cpu_us", "CPU of server and worker an item, in batches of 8 through a pool", 15, "µs"),
    Goal("hop_64mb_vs_1kb", "a batch of one tensor through a pool, handed on unchanged", 1.2),
    Goal("speedup_vs_mp_queue_784", "784 floats through a pool and back, against Queue", 20, at_least=True),
    Goal("speedup_vs_mp_queue_img8", "the same with 8×3×224×224 floats", 60, at_least=True),
    Goal("copies_per_request", "copies of a body between socket and model, in batches of 8", 0),
    Goal("assemble_in_place", "32 images that are neighbours, against torch.stack", 50, at_least=True),
    Goal("assemble_gathered", "32 images that are not", 1.5, at_least=True),
    Goal("torch_save_speedup", "a tensor through the bytes codec and back", 5, at_least=True),
)
SIZES = [1 << power for power in (10, 14, 18, 22, 26)]  # bytes of a tensor
SHAPES = {"784": (784,), "img8": (8, 3, 224, 224)}
BATCH = 8
ROUNDS = 15
HOPS = 100  # a round, of what takes no longer for larger tensors
MOVED = 1 << 26  # bytes that anything else moves a round, at most


def moves(nbytes: int) -> int:
    """Return how many tensors to move in a round, where that takes longer for larger ones."""
    return max(1, min(HOPS // 2, MOVED // nbytes))


class Echoes:
    """The ways to measure, open at the same time; times are collected in seconds by name."""

    def __init__(self, echo: Echo, queue: QueueEcho, pipe: PipeEcho) -> None:
        self._echo, self._queue, self._pipe = echo, queue, pipe
        self.times: dict[str, list[float]] = {}

    async def pool(self, name: str, tensors: Sequence[torch.Tensor]) -> tuple[float, float]:
        """Time batches of `tensors` through the pool; return the CPU seconds a batch of server and worker."""
        payloads = [payload_of(self._echo.arena, tensor) for tensor in tensors]
        found = await time_hops(self._echo, self._echo.items(payloads), HOPS)
        self.times.setdefault(name, []).extend(found.times)
        for payload in payloads:
            payload.release()
        return found.server_cpu / HOPS, found.worker_cpu / HOPS

    def queue(self, name: str, tensor: torch.Tensor, *, shared: bool = False) -> None:
        """Time a tensor through the queues."""
        found = self._queue.time_hops(tensor, moves(tensor.nbytes), shared=shared)
        self.times.setdefault(name, []).extend(found)

    def pipe(self, name: str, tensor: torch.Tensor) -> None:
        """Time a tensor through the pipes."""
        found = self._pipe.time_hops(tensor, moves(tensor.nbytes))
        self.times.setdefault(name, []).extend(found)

    def medians(self) -> dict[str, float]:
        """Return the median of each name, µs."""
        return {name: statistics.median(times) * 1e6 for name, times in self.times.items()}


async def run_round(found: Echoes, tensors: Mapping[str, torch.Tensor]) -> tuple[float, float]:
    """Time each tensor each way, and a batch; return what CPU seconds that took of server and worker."""
    for name, tensor in tensors.items():
        await found.pool(f"hop_us_{name}", [tensor])
        found.queue(f"queue_us_{name}", tensor)
        found.queue(f"queue_shared_us_{name}", tensor, shared=True)
        found.pipe(f"pipe_us_{name}", tensor)
    return await found.pool("hop_us_batch", [tensors["784"]] * BATCH)


async def echoes() -> dict[str, float]:
    """Return what the pool, the queues and the pipes take by size and by shape, µs, and their ratios."""
    tensors = {str(size): torch.randn(size // 4) for size in SIZES}
    tensors |= {name: torch.randn(shape) for name, shape in SHAPES.items()}
    here, there = ends()
    async with echo_pool() as echo:
        os.sched_setaffinity(echo.pid, {there})
        with QueueEcho(there) as queue, PipeEcho(there) as pipe, on_core(here):
            await run_round(Echoes(echo, queue, pipe), tensors)  # warms up
            found = Echoes(echo, queue, pipe)
            cpu = [await run_round(found, tensors) for _ in range(ROUNDS)]
    server, worker = (statistics.median(each) / BATCH * 1e6 for each in zip(*cpu, strict=True))
    return ratios(found.medians() | {"hop_server_cpu_us": server, "hop_worker_cpu_us": worker})


def ratios(us: dict[str, float]) -> dict[str, float]:
    """Return `us` with what the goals are about."""
    us["hop_cpu_us"] = us["hop_server_cpu_us"] + us["hop_worker_cpu_us"]
    us["hop_64mb_vs_1kb"] = us[f"hop_us_{SIZES[-1]}"] / us[f"hop_us_{SIZES[0]}"]
    for name in SHAPES:
        us[f"speedup_vs_mp_queue_{name}"] = us[f"queue_us_{name}"] / us[f"hop_us_{name}"]
        us[f"speedup_vs_mp_queue_{name}_shared"] = us[f"queue_shared_us_{name}"] / us[f"hop_us_{name}"]
    return us


def show_sizes(us: Mapping[str, float]) -> None:
    """Print what a hop takes by size."""
    print(f"there and back, µs{'pool':>12}{'Queue':>12}{'shared':>12}{'pipe':>12}")
    for name in [*map(str, SIZES), *SHAPES]:
        cells = [us[f"{way}_us_{name}"] for way in ("hop", "queue", "queue_shared", "pipe")]
        print(f"{name:<18}" + "".join(f"{cell:>12.1f}" for cell in cells))
    print(
        f"CPU an item in batches of {BATCH}: server {us['hop_server_cpu_us']:.1f} µs,"
        f" worker {us['hop_worker_cpu_us']:.1f} µs"
    )


def measure() -> dict[str, float]:
    """Return all figures, and print those that are compared as they come."""
    numbers = hop.figures() | trio.run(echoes)
    show_sizes(numbers)
    return numbers | codec.figures() | assemble.figures() | copies.figures()


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    warm_up()
    numbers = measure()
    show(GOALS, numbers)
    write(arguments.json, numbers)


if __name__ == "__main__":
    main()
