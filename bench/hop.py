"""One hop server → child → server: a ring awaited on Trio, against a blocking ping-pong over two pipes.

Both run in turns within one run, so that whatever else the machine does falls on both alike. A hop carries
one 32-byte message each way and wakes a sleeping process twice, as a pipe's ping-pong does. What waking
costs depends, far more than on anything else, on whether it crosses to another core: left to the scheduler,
one run's medians are 10 µs and another's 55. So both placements are pinned and measured apart; two cores,
where the child could compute while the server serves, is the one that counts.
"""

from __future__ import annotations

import argparse
import multiprocessing
import os
import statistics
import time
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import TYPE_CHECKING, Any

import trio

from bench.cores import on_core
from bench.goals import write
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.transport.shm import ShmLink

HOPS = 20_000  # of each kind
ROUNDS = 40
MESSAGE_BYTES = 32
ENDING = bytes(MESSAGE_BYTES)
QUESTION = b"?" * MESSAGE_BYTES


class Pipes:
    """Two pipes' ends for a child: (read from, write to)."""

    def __init__(self, read: int, write: int) -> None:
        self.read, self.write = read, write

    def __reduce__(self) -> tuple[object, ...]:
        return _arrived, (DupFd(self.read), DupFd(self.write))


def _arrived(read: Any, write: Any) -> Pipes:
    return Pipes(read.detach(), write.detach())


def echo_ring(port: Any) -> None:
    """Answer over the rings until told to stop."""
    link = port.attach()
    while (message := link.receive()).kind != MessageKind.STOP:
        link.send(message)


def echo_pipe(pipes: Pipes) -> None:
    """Answer over the pipes until told to stop."""
    while (data := os.read(pipes.read, MESSAGE_BYTES)) != ENDING:
        os.write(pipes.write, data)


async def time_ring(link: ShmLink, count: int) -> list[int]:
    """Return `count` times there and back, ns."""
    message, times = Message(MessageKind.CALL, 1, NOWHERE), []
    for _ in range(count):
        start = time.perf_counter_ns()
        link.send(message)
        await link.receive()
        times.append(time.perf_counter_ns() - start)
    return times


def time_pipe(pipes: Pipes, count: int) -> list[int]:
    """Return `count` times there and back, ns."""
    times = []
    for _ in range(count):
        start = time.perf_counter_ns()
        os.write(pipes.write, QUESTION)
        os.read(pipes.read, MESSAGE_BYTES)
        times.append(time.perf_counter_ns() - start)
    return times


async def measure(hops: int, cores: Sequence[int]) -> dict[str, float]:
    """Time `hops` of each kind in alternating rounds, the first of which only warms up.

    The server runs on the first of `cores`, the children on the last.
    """
    context = multiprocessing.get_context("forkserver")
    (there_read, there_write), (back_read, back_write) = os.pipe(), os.pipe()
    rings: list[int] = []
    pipes: list[int] = []
    with ShmTransport(1 << 20) as transport:
        link, port = transport.connect()
        ours, theirs = Pipes(back_read, there_write), Pipes(there_read, back_write)
        children = [
            context.Process(target=echo_ring, args=(port,), daemon=True),
            context.Process(target=echo_pipe, args=(theirs,), daemon=True),
        ]
        for child in children:
            child.start()
            os.sched_setaffinity(child.pid or 0, {cores[-1]})
        with on_core(cores[0]):
            for _ in range(ROUNDS + 1):
                rings += await time_ring(link, hops // ROUNDS)
                pipes += time_pipe(ours, hops // ROUNDS)
        link.send(Message(MessageKind.STOP, 0, NOWHERE))
        os.write(there_write, ENDING)
        for child in children:
            child.join()
        link.close()
    for fd in (there_read, there_write, back_read, back_write):
        os.close(fd)
    warm = hops // ROUNDS
    return summary(rings[warm:], pipes[warm:])


def summary(rings: Sequence[int], pipes: Sequence[int]) -> dict[str, float]:
    """Return medians and 99th percentiles, µs, and the ratio of the medians."""
    result = {}
    for name, times in (("hop", rings), ("pipe", pipes)):
        percentiles = statistics.quantiles(times, n=100)
        result[f"{name}_p50_us"] = percentiles[49] / 1000
        result[f"{name}_p99_us"] = percentiles[98] / 1000
    result["hop_vs_pipe"] = result["hop_p50_us"] / result["pipe_p50_us"]
    return result


def show(title: str, numbers: dict[str, float]) -> None:
    """Print a table."""
    print(f"{title:<24}{'p50':>8}{'p99':>8}")
    for name, label in (("hop", "ring, awaited on Trio"), ("pipe", "pipes, blocking")):
        print(f"{label:<24}{numbers[f'{name}_p50_us']:>8.1f}{numbers[f'{name}_p99_us']:>8.1f}")
    print(f"{'ratio of the medians':<24}{numbers['hop_vs_pipe']:>8.2f}")


def figures(hops: int = HOPS) -> dict[str, float]:
    """Measure on two cores and, if there are two, on one as well; print tables, return the numbers."""
    cores = sorted(os.sched_getaffinity(0))
    numbers = {"cores": len(cores[:2]), **trio.run(measure, hops, cores[:2])}
    show(f"on {len(cores[:2])} cores, µs", numbers)
    if len(cores) > 1:
        together = trio.run(measure, hops, cores[:1])
        show("on one core, µs", together)
        numbers |= {f"same_core_{key}": value for key, value in together.items()}
    return numbers


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hops", type=int, default=HOPS, help="hops of each kind (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    if arguments.hops < ROUNDS * 10:
        parser.error(f"--hops must be at least {ROUNDS * 10}")
    write(arguments.json, figures(arguments.hops))


if __name__ == "__main__":
    main()
