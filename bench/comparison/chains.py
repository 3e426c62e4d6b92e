"""What a request costs as a chain of functions grows, with its nodes in workers of their own and in one."""

from __future__ import annotations

import json
import subprocess
import sys
from itertools import pairwise
from typing import TYPE_CHECKING

from wfserve.archive.pack import WorkflowArchiveOptions, pack_workflow

if TYPE_CHECKING:
    from pathlib import Path

LENGTHS = (1, 2, 4, 8, 16, 32)  # nodes
CLIENTS = 16
PATIENCE = 300.0  # seconds for one measurement, starts of workers included
_FUNCTION = (
    "def {name}(data, context):\n    return None if data is None else [row['body'] for row in data]\n\n\n"
)


def run(directory: Path, seconds: float) -> dict[str, float]:
    """Return milliseconds a request by length and fusion, and what the goals need of them."""
    body = directory / "chain.body"
    body.write_bytes(bytes(1024))
    costs = {}
    for length in LENGTHS:
        for fuse in ("off", "on"):
            costs[f"chain_{length}_{fuse}_ms"] = cost = measure(directory, length, fuse, body, seconds)
            print(f"chain of {length:2} nodes, fuse: {fuse:3} {cost:8.3f} ms a request", flush=True)
    return costs | of_goals(costs)


def of_goals(costs: dict[str, float]) -> dict[str, float]:
    """Return by how much a node more costs more at 32 than at 8, and fused by not fused at 32."""
    single, eight, half, whole = (costs[f"chain_{length}_off_ms"] for length in (1, 8, 16, 32))
    late, early = (whole - half) / 16, (eight - single) / 7
    return {"chain_growth": late / early, "chain_fused": costs["chain_32_on_ms"] / whole}


def measure(directory: Path, length: int, fuse: str, body: Path, seconds: float) -> float:
    """Return the milliseconds that the whole spends on a request while `CLIENTS` clients ask."""
    name = pack(directory, length, fuse)
    report = directory / "walk.json"
    values = {"store": directory, "workflow": f"{name}.war", "body": body, "json": report}
    values |= {"clients": CLIENTS, "seconds": seconds}
    arguments = [part for key, value in values.items() for part in (f"--{key}", str(value))]
    command = [sys.executable, "-m", "bench.walk", *arguments]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True, timeout=seconds + PATIENCE)
    rate: float = json.loads(report.read_text())[f"{name}_c{CLIENTS}_rps"]
    return 1e3 / rate


def pack(directory: Path, length: int, fuse: str) -> str:
    """Write a chain of functions that hand on what they get into `directory`; return its name."""
    name = f"chain-{length}-{fuse}"
    nodes = [f"f{number}" for number in range(length)]
    links = [f"  {node}: [{following}]" for node, following in pairwise(nodes)] or ["  f0: []"]
    fused = [f"  {node}: {{fuse: {fuse}}}" for node in nodes]
    lines = ["models:", "  data-format: native", "functions:", *fused, "dag:", *links, ""]
    spec, functions = directory / f"{name}.yaml", directory / f"chain_{length}.py"
    spec.write_text("\n".join(lines))
    functions.write_text("".join(_FUNCTION.format(name=node) for node in nodes))
    pack_workflow(WorkflowArchiveOptions(name, spec, functions, export_path=directory, force=True))
    return name
