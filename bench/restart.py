"""Seconds from the start of a server until it is healthy, with and without workflows that it has to restore.

    python -m bench.restart [--workflows 50] [--json FILE]

The workflows were registered before the server was ended with kill -9. What their models take to load is in
the figure: each of the 50 has a worker of its own, with a network of a few kilobytes (seq-native).
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.serve import Server
from bench.workloads.build import body, build, is_right

if TYPE_CHECKING:
    from collections.abc import Sequence

WORKLOAD = "seq-native"
GOAL = 5.0  # seconds until healthy, beyond those of a server that restores nothing


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the three times; fail if a restored workflow answers wrong, or it took too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--workflows", type=int, default=50)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory(prefix="wfserve-bench-") as directory:
        store = Path(directory) / "store"
        store.mkdir()
        build(store)
        figures = measure(Path(directory), store, options.workflows)
    print(f"healthy, with nothing but {WORKLOAD}: {figures['without']:.2f} s")
    print(f"registering {options.workflows} workflows: {figures['registering']:.2f} s")
    print(f"healthy again with all of them: {figures['restored']:.2f} s (goal: {GOAL:g} s)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=2))
    if figures["restored"] > GOAL:
        raise SystemExit("missed")


def measure(directory: Path, store: Path, workflows: int) -> dict[str, float]:
    """Return the seconds each took: a start, the registrations, and the start after a kill."""
    with Server(directory, store, WORKLOAD) as server:
        without, began = server.cold_start, time.perf_counter()
        for number in range(workflows):
            path = f"/workflows?url={WORKLOAD}.war&workflow_name=w{number}"
            server.call("POST", server.management, path, b"")
        registering = time.perf_counter() - began
        server.process.kill()
    with Server(directory, store, WORKLOAD) as server:
        for number in range(workflows):
            check(server, store, f"w{number}")
        return {"without": without, "registering": registering, "restored": server.cold_start}


def check(server: Server, store: Path, name: str) -> None:
    """End the measurement if a workflow does not answer right."""
    answer = server.call("POST", server.inference, f"/wfpredict/{name}", body(WORKLOAD, store).read_bytes())
    if not is_right(WORKLOAD, answer, store):
        raise SystemExit(f"workflow {name} answers wrong after the restart")


if __name__ == "__main__":
    main()
