"""The plots of docs/performance.md show what the last `make bench` has found, and nothing else.

    python -m bench.plot [--figures build/bench] [--out docs/plots]

They are small SVG files, with text as text; the same figures make the same files.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import matplotlib
from matplotlib.figure import Figure

from bench.oracle import LOADS, SERVERS, key_of
from bench.served import SIZES as BATCH_SIZES
from bench.transport import SIZES as BYTES

if TYPE_CHECKING:
    from collections.abc import Mapping

    Numbers = Mapping[str, float]

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",  # text as text
    "svg.hashsalt": "wfserve",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.8,
    "lines.markersize": 4,
}
WAYS = {
    "hop": ("wfserve, pool to worker and back", "#0b6e4f"),
    "queue_shared": ("torch.multiprocessing.Queue, tensor shared before", "#e08e45"),
    "queue": ("torch.multiprocessing.Queue", "#b3261e"),
    "pipe": ("two pipes", "#5b7db1"),
}
COLOURS = ("#5b7db1", "#0b6e4f", "#e08e45", "#b3261e", "#6b4fa0")
UNITS = {1 << 10: "1 KB", 1 << 14: "16 KB", 1 << 18: "256 KB", 1 << 22: "4 MB", 1 << 26: "64 MB"}


def hops(numbers: Numbers) -> Figure:
    """Draw what a tensor takes there and back, by size."""
    figure = Figure(figsize=(6.4, 3.4), layout="constrained")
    axes = figure.subplots()
    for way, (label, colour) in WAYS.items():
        axes.loglog(BYTES, [numbers[f"{way}_us_{size}"] for size in BYTES], "o-", label=label, color=colour)
    axes.set_xticks(BYTES, [UNITS[size] for size in BYTES])
    axes.set_xticks([], minor=True)
    axes.set_xlabel("tensor")
    axes.set_ylabel("there and back, µs (p50)")
    axes.legend(frameon=False)
    return figure


def batches(numbers: Numbers) -> Figure:
    """Draw how long a batch takes by its size, and what that makes a second."""
    milliseconds = [numbers[f"offline_ms_{size}"] for size in BATCH_SIZES]
    rates = [size / taken * 1e3 for size, taken in zip(BATCH_SIZES, milliseconds, strict=True)]
    figure = Figure(figsize=(6.4, 2.8), layout="constrained")
    latency, throughput = figure.subplots(1, 2)
    latency.plot(BATCH_SIZES, milliseconds, "o-", color=COLOURS[1])
    latency.set_ylabel("a batch, ms")
    throughput.plot(BATCH_SIZES, rates, "o-", color=COLOURS[1], label="offline, ready batches")
    throughput.axhline(numbers["served_rps"], color=COLOURS[3], linestyle="--", label="served, 32 clients")
    throughput.set_ylabel("sequences a second")
    throughput.legend(frameon=False, loc="lower right")
    for axes in (latency, throughput):
        axes.set_xlabel("batch size")
        axes.set_xticks(BATCH_SIZES[2:])
        axes.set_ylim(bottom=0)
    return figure


def policy(numbers: Numbers) -> Figure:
    """Draw our p99 as a multiple of the oracle's, by load."""
    figure = Figure(figsize=(6.4, 3.0), layout="constrained")
    axes = figure.subplots()
    for name, colour in zip((*SERVERS, "learned"), COLOURS, strict=True):
        ratios = [numbers[f"p99_vs_oracle_{key_of(name, load)}"] for load in LOADS]
        axes.plot(LOADS, ratios, "o-", label=name, color=colour)
    axes.axhline(1.3, color="#888888", linestyle=":", label="goal at 0.7")
    axes.set_xticks(LOADS)
    axes.set_ylim(bottom=1)
    axes.set_xlabel("load, of what full batches could serve")
    axes.set_ylabel("p99, as a multiple of the oracle’s")
    axes.legend(frameon=False, ncols=3)
    return figure


DRAWN = {"hops": ("transport", hops), "batches": ("batching", batches), "policy": ("batching", policy)}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--figures", type=Path, default=Path("build/bench"), metavar="DIR")
    parser.add_argument("--out", type=Path, default=Path("docs/plots"), metavar="DIR")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for name, (source, draw) in DRAWN.items():
        file = arguments.figures / f"{source}.json"
        if not file.exists():
            parser.error(f"{file} is missing: make bench writes it")
        with matplotlib.rc_context(STYLE):
            target = arguments.out / f"{name}.svg"
            draw(json.loads(file.read_text())).savefig(target, metadata={"Date": None, "Creator": None})


if __name__ == "__main__":
    main()
