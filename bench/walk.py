"""Requests a second through walk, scheduling, workers and transport, without HTTP.

    python -m bench.workloads.build --out DIR
    python -m bench.walk --store DIR --workflow seq-native.war --body DIR/seq.bin [--clients 1,16,64]

Each client is a Trio task that walks one request after another; a fault of any of them ends the run.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import trio

from wfserve.config import Config, load
from wfserve.dag.walk import Request
from wfserve.registry.opening import open_registry
from wfserve.transport.frame import Kind
from wfserve.transport.publish import publish

if TYPE_CHECKING:
    from wfserve.registry.catalogue import Registry
    from wfserve.registry.workflow import Workflow


async def client(
    registry: Registry, workflow: Workflow, body: bytes, until: float, times: list[float]
) -> None:
    """Walk one request after another until the clock says stop; append each one's seconds to `times`."""
    while (began := trio.current_time()) < until:
        headers = publish(registry.arena, b"[]", Kind.JSON)
        answer = await workflow.predict(Request(headers, publish(registry.arena, body)))
        assert answer is not None
        answer.release()
        times.append(trio.current_time() - began)


async def measure(
    registry: Registry, workflow: Workflow, body: bytes, clients: int, seconds: float
) -> list[float]:
    """Return the seconds of every request of one run."""
    times: list[float] = []
    async with trio.open_nursery() as nursery:
        for _ in range(clients):
            nursery.start_soon(client, registry, workflow, body, trio.current_time() + seconds, times)
    return times


async def run(arguments: argparse.Namespace, config: Config) -> dict[str, float]:
    """Measure each number of clients and print a line for it."""
    figures = {}
    body = arguments.body.read_bytes()
    async with open_registry(config) as registry:
        workflow = await registry.register(arguments.workflow)
        await measure(registry, workflow, body, 16, 0.5)  # warm-up
        for clients in map(int, arguments.clients.split(",")):
            times = sorted(await measure(registry, workflow, body, clients, arguments.seconds))
            rate, p50 = len(times) / arguments.seconds, statistics.median(times)
            p99 = times[len(times) * 99 // 100]
            figures[f"{workflow.name}_c{clients}_rps"] = rate
            latency = f"p50 {p50 * 1e3:7.2f} ms  p99 {p99 * 1e3:7.2f} ms"
            print(f"{workflow.name:12} c={clients:<3} {rate:8.0f}/s  {latency}")
    return figures


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--store", type=Path, required=True)
    parser.add_argument("--workflow", required=True)
    parser.add_argument("--body", type=Path, required=True)
    parser.add_argument("--clients", default="1,16,64")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as state:
        config = load(None, {"workflow_store": str(arguments.store), "state_dir": state}, environ={})
        figures = trio.run(run, arguments, config)
    if arguments.json:
        arguments.json.write_text(json.dumps(figures, indent=2) + "\n")


if __name__ == "__main__":
    main()
