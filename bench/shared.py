"""What a second workflow over one model of 80 MB costs, in memory and time, with `share: on` and without.

    python -m bench.shared [--json FILE]

Memory is the proportional set size of the server and all that it has started. The model is one matrix of
20 million random floats; a workflow has a function before it, so that only the model is the same.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch

from bench.processes import children
from bench.serve import Server, memory
from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

SIDE = 4472  # of the matrix: 80 MB
MODEL_MIB = SIDE * SIDE * 4 / (1 << 20)
NEGLIGIBLE = 0.25  # of the model, that one workflow more may cost if it is held once
VERSIONS = 9
HANDLER = """
import torch

class Product:
    def initialize(self, context):
        self.matrix = torch.load("matrix.pt")
        self.ones = torch.ones(len(self.matrix))

    def handle(self, data, context):
        return [f"{float((self.matrix @ self.ones)[0]):.1f}" for _ in data]
"""
FUNCTIONS = "def forward(data, context):\n    return data and [row['body'] for row in data]\n"
SPEC = "models:\n  m: {{url: m.mar, share: {}}}\nfunctions:\n  forward: {{fuse: off}}\ndag:\n  forward: [m]\n"


def build(store: Path) -> str:
    """Pack the model, and the workflows `on` and `off`; return what each of them answers."""
    torch.manual_seed(0)
    matrix = torch.rand(SIDE, SIDE)
    torch.save(matrix, store / "matrix.pt")
    (store / "product.py").write_text(HANDLER)
    (store / "functions.py").write_text(FUNCTIONS)
    pack_model(
        ModelArchiveOptions(
            "m",
            str(store / "product.py"),
            "1.0",
            extra_files=(str(store / "matrix.pt"),),
            export_path=store,
            archive_format="zip-store",
        )
    )
    for share in ("on", "off"):
        spec = store / f"{share}.yaml"
        spec.write_text(SPEC.format(share))
        pack_workflow(WorkflowArchiveOptions(share, spec, store / "functions.py", export_path=store))
    return f"{float((matrix @ torch.ones(SIDE))[0]):.1f}"


class Cost(NamedTuple):
    """What one workflow more takes, and each version that comes in place of that."""

    first_mib: float  # of everything, with one workflow
    second_mib: float  # that the second has added
    version_s: float  # median, from the call to its answer


def tree(pid: int) -> Iterator[int]:
    """Give a process and all below it."""
    yield pid
    for child in children(pid):
        yield from tree(child)


def held(server: Server) -> float:
    """Return the MiB that everything holds together."""
    return sum(memory(pid)["pss_mib"] for pid in tree(server.process.pid))


def register(server: Server, share: str, version: int) -> float:
    """Register a version of the second workflow in place of the one before; return how long that took."""
    began = time.perf_counter()
    path = f"/workflows?url={share}.war&workflow_name=second&version={version}&replace=true"
    server.call("POST", server.management, path, b"")
    return time.perf_counter() - began


def measure(servers: Mapping[str, Server], answer: str) -> dict[str, Cost]:
    """Return what the second workflow costs on each server; its versions are registered in turns."""
    memories = {share: _memories(server, share, answer) for share, server in servers.items()}
    times: dict[str, list[float]] = {share: [] for share in servers}
    for version in range(2, 2 + VERSIONS):
        for share, server in servers.items():
            times[share].append(register(server, share, version))
            check(server, "second", answer)
    return {share: Cost(*memories[share], statistics.median(times[share])) for share in servers}


def _memories(server: Server, share: str, answer: str) -> tuple[float, float]:
    check(server, share, answer)
    first = held(server)
    register(server, share, 1)
    check(server, "second", answer)
    return first, held(server) - first


def check(server: Server, name: str, answer: str) -> None:
    """End the measurement if a workflow does not answer right."""
    if server.call("POST", server.inference, f"/wfpredict/{name}", b"x").decode() != answer:
        raise SystemExit(f"workflow {name} answers wrong")


def main(arguments: Sequence[str] | None = None) -> None:
    """Print what both ways cost; fail if the model is not held once with `share: on`."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wfserve-bench-") as name, ExitStack() as stack:
        store = Path(name, "store")
        store.mkdir()
        answer = build(store)
        servers = {}
        for share in ("off", "on"):
            directory = Path(name, share)
            directory.mkdir()
            servers[share] = stack.enter_context(Server(directory, store, share))
        costs = measure(servers, answer)
    for share, cost in costs.items():
        memories = f"one workflow {cost.first_mib:.0f} MiB, the second {cost.second_mib:+.0f} MiB"
        print(f"share: {share:<3}  {memories}, a new version in {cost.version_s * 1e3:.0f} ms")
    if options.json:
        figures = {share: cost._asdict() for share, cost in costs.items()}
        options.json.write_text(json.dumps(figures, indent=2) + "\n")
    if costs["on"].second_mib > NEGLIGIBLE * MODEL_MIB:
        raise SystemExit("the model is held more than once")


if __name__ == "__main__":
    main()
