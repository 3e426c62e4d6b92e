"""Where a request's time goes while nobody else asks: by the server's own counters, which add up then.

HTTP is what the client sees beyond the server's own measure, so it has the client's part in it. CPU time is
of a full load: by the kernel's count, for the server's process and for its workers.
"""

from __future__ import annotations

import os
import re
import statistics
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from bench.load import Measurement, Target, measure
from bench.peers.base import body

if TYPE_CHECKING:
    from bench.serve import Server

NAME = "seq-native"
MODEL = "m1"
BUSY = 64  # connections
SAMPLES = 10  # of what is known of last batches only
_SAMPLE = re.compile(r"^(\w+)(?:\{(.*)\})? (\S+)$", re.MULTILINE)
_TICK = 1e6 / os.sysconf("SC_CLK_TCK")  # microseconds


def run(server: Server, store: Path, seconds: float) -> dict[str, float]:
    """Return microseconds a request by where they go."""
    target = Target(server.inference, f"/wfpredict/{NAME}", body(NAME, store))
    measure(target, 1, 1)  # warm-up
    spent = waiting(server, target, seconds) | computing(server, target, seconds)
    for name, value in spent.items():
        print(f"{name:20} {value:7.1f} µs", flush=True)
    return spent


def waiting(server: Server, target: Target, seconds: float) -> dict[str, float]:
    """Return where the time of a lone request goes."""
    before = totals(server)
    measured, busy = _sampled(server, target, seconds)
    after = totals(server)
    requests = after["requests"] - before["requests"]
    inside, queue, stages = (
        (after[key] - before[key]) / requests * 1e6 for key in ("inside", "queue", "stages")
    )
    model = statistics.median(each[MODEL] for each in busy)
    nodes = statistics.median(sum(each.values()) for each in busy)
    return {
        "spent_http_us": 1e6 * measured.seconds / measured.requests - inside,
        "spent_walk_us": inside - queue - stages,
        "spent_queue_us": queue,
        "spent_hop_us": stages - nodes,
        "spent_functions_us": nodes - model,
        "spent_model_us": model,
    }


def totals(server: Server) -> dict[str, float]:
    """Return requests, and the seconds spent on them: in all, in queues, away at workers."""
    found = {"requests": 0.0, "inside": 0.0, "queue": 0.0, "stages": 0.0}
    names = {
        "wfserve_request_seconds_count": "requests",
        "wfserve_request_seconds_sum": "inside",
        "wfserve_node_queue_seconds_sum": "queue",
        "wfserve_node_run_seconds_sum": "stages",
    }
    for name, labels, value in samples(server):
        if name in names and f'workflow="{NAME}"' in labels:
            found[names[name]] += value
    return found


def last_batches(server: Server) -> dict[str, float]:
    """Return the microseconds that the worker was busy with each node's last batch."""
    prefix = f'ModelName="{NAME}__'
    return {
        labels.partition(prefix)[2].rstrip('"'): value * 1e3
        for name, labels, value in samples(server)
        if name == "PredictionTime" and prefix in labels
    }


def samples(server: Server) -> list[tuple[str, str, float]]:
    """Return what `/metrics` shows: name, labels, value."""
    text = server.call("GET", server.metrics, "/metrics").decode()
    return [(name, labels, float(value)) for name, labels, value in _SAMPLE.findall(text)]


def _sampled(server: Server, target: Target, seconds: float) -> tuple[Measurement, list[dict[str, float]]]:
    """Return a measurement with one connection, and the last batches now and then while it ran."""
    done: list[Measurement] = []
    load = threading.Thread(target=lambda: done.append(measure(target, 1, seconds)))
    load.start()
    found = []
    for _ in range(SAMPLES):
        load.join(seconds / (SAMPLES + 1))
        found.append(last_batches(server))
    load.join()
    return done[0], found


def computing(server: Server, target: Target, seconds: float) -> dict[str, float]:
    """Return the CPU time of the server's process and of all its workers, a request at full load."""
    workers = server.workers()
    before = cpu([server.process.pid]), cpu(workers)
    requests = measure(target, BUSY, seconds).requests
    after = cpu([server.process.pid]), cpu(workers)
    server_us, workers_us = ((late - early) / requests for early, late in zip(before, after, strict=True))
    return {"cpu_server_us": server_us, "cpu_workers_us": workers_us}


def cpu(pids: list[int]) -> float:
    """Return the microseconds of CPU time that processes have had."""
    fields = [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split() for pid in pids]
    return sum(int(user) + int(system) for user, system in (each[11:13] for each in fields)) * _TICK
