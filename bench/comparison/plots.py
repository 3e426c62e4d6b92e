"""Plots of a comparison as SVG whose text is text; equal figures make equal files."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bench.comparison.chains import LENGTHS
from bench.comparison.figures import OURS, Figures

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

_STYLE: Any = {
    "svg.fonttype": "none",
    "svg.hashsalt": "wfserve",
    "font.size": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
}


def draw(figures: Figures, directory: Path) -> list[Path]:
    """Write all plots that there are figures for. Raises `ImportError` without matplotlib."""
    import matplotlib

    matplotlib.use("svg")
    import matplotlib.pyplot as plt

    directory.mkdir(parents=True, exist_ok=True)
    drawn = []
    with plt.rc_context(_STYLE):
        for name, what in {
            "compare-rates": _rates,
            "compare-tails": _tails,
            "compare-chains": _chains,
        }.items():
            figure, axes = plt.subplots(figsize=(7, 4), layout="constrained")
            if what(figures, axes):
                file = directory / f"{name}.svg"
                figure.savefig(file, metadata={"Date": None})
                drawn.append(file)
            plt.close(figure)
    return drawn


def _rates(figures: Figures, axes: Any) -> bool:
    """Our rate as a multiple of each peer's: above 1, wfserve is faster."""
    cells = dict.fromkeys(
        (run.peer, run.way, run.workload, run.connections)
        for run in figures.runs
        if run.way != OURS and run.load == "closed"
    )
    ratios = {cell: ratio for cell in cells if (ratio := figures.rate_ratio(*cell)) is not None}
    labels = [f"{workload}, {peer} {way}, {n}" for peer, way, workload, n in ratios]
    axes.figure.set_figheight(1 + 0.2 * len(labels))
    axes.barh(labels, list(ratios.values()), color="tab:blue")
    axes.axvline(1, color="black", linewidth=0.8)
    axes.set_xscale("log")
    axes.set_xlabel("wfserve's requests/s by the peer's (workload, peer, connections)")
    axes.invert_yaxis()
    return bool(ratios)


def _tails(figures: Figures, axes: Any) -> bool:
    """Latencies at half of capacity, from p50 to p99."""
    cells = dict.fromkeys(
        (run.peer, run.way, run.workload, run.connections, "open")
        for run in figures.runs
        if run.load == "open"
    )
    found = {cell: figures.median("p50_ms", *cell) for cell in cells}
    shown: Sequence[tuple[Any, ...]] = [cell for cell, p50 in found.items() if p50 is not None]
    axes.figure.set_figheight(1 + 0.2 * len(shown))
    for row, cell in enumerate(shown):
        axes.plot([found[cell], figures.median("p99_ms", *cell)], [row, row], marker="|", color="tab:blue")
    axes.set_yticks(range(len(shown)), [f"{cell[2]}, {cell[1]} ({cell[0]})" for cell in shown])
    axes.set_xscale("log")
    axes.set_xlabel("ms from p50 to p99, open loop at half of each one's capacity")
    axes.invert_yaxis()
    return bool(shown)


def _chains(figures: Figures, axes: Any) -> bool:
    """Cost by length."""
    if "chain_1_on_ms" not in figures.own:
        return False
    for fuse, label in (("off", "a worker a node"), ("on", "fused")):
        axes.plot(LENGTHS, [figures.own[f"chain_{n}_{fuse}_ms"] for n in LENGTHS], marker="o", label=label)
    axes.set_xlabel("nodes in the chain")
    axes.set_ylabel("ms a request, 16 clients")
    axes.legend()
    return True
