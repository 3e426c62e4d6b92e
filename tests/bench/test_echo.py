"""Tensors come back from a real worker where they lay, and from queues and pipes as they were."""

import os
import time

import pytest
import torch

from bench.cores import cpu_seconds, ends, on_core
from bench.echo import PipeEcho, QueueEcho, echo_pool, payload_of, time_hops
from bench.transport import BATCH, SHAPES, SIZES, moves, ratios


async def test_a_batch_comes_back_from_a_worker():
    async with echo_pool() as echo:
        payloads = [payload_of(echo.arena, torch.arange(10.0) + number) for number in range(3)]
        slots = echo.arena.statistics().slots
        found = await time_hops(echo, echo.items(payloads), 5)
        assert len(found.times) == 5
        assert min(*found.times, found.server_cpu, found.worker_cpu) > 0
        assert echo.arena.statistics().slots == slots
        assert bytes(payloads[2].borrow()) == (torch.arange(10.0) + 2).numpy().tobytes()
        for payload in payloads:
            payload.release()


@pytest.mark.parametrize("peer", [QueueEcho, PipeEcho])
def test_a_tensor_comes_back_from_a_peer(peer):
    with peer(ends()[1]) as echo:
        assert len(echo.time_hops(torch.arange(10.0), 3)) == 3


def test_a_thread_stays_on_a_core_for_a_while():
    before = os.sched_getaffinity(0)
    with on_core(min(before)):
        assert os.sched_getaffinity(0) == {min(before)}
    assert os.sched_getaffinity(0) == before


def test_cpu_time_is_that_of_the_process():
    assert cpu_seconds(os.getpid()) == pytest.approx(time.process_time(), rel=0.1)


def test_large_tensors_are_moved_less_often():
    assert moves(1 << 10) > moves(1 << 22) > moves(1 << 30) == 1


def test_ratios_are_of_what_took_longer():
    us = {f"hop_us_{size}": 100.0 for size in SIZES} | {f"hop_us_{SIZES[-1]}": 110.0}
    for name in SHAPES:
        us |= {f"hop_us_{name}": 50.0, f"queue_us_{name}": 1000.0, f"queue_shared_us_{name}": 500.0}
    found = ratios(us | {"hop_server_cpu_us": 5.0, "hop_worker_cpu_us": 7.0})
    assert found["hop_64mb_vs_1kb"] == pytest.approx(1.1)
    assert found["hop_cpu_us"] == 12
    assert (found["speedup_vs_mp_queue_784"], found["speedup_vs_mp_queue_784_shared"]) == (20, 10)
    assert BATCH == 8
