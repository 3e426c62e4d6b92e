"""The comparison as Markdown, between two marks of a document whose other text it leaves alone."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.comparison.chains import LENGTHS
from bench.comparison.figures import OURS, Figures
from bench.comparison.goals import GOALS, Goal

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

LATE = 0.2  # of p50: a client that is later has measured itself
BEGIN, END = "<!-- make compare: begin -->", "<!-- make compare: end -->"
_SPENT = {
    "spent_http_us": "HTTP, the client's part and the kernel's included",
    "spent_walk_us": "walk",
    "spent_queue_us": "queue",
    "spent_hop_us": "hop: the ring there and back, and both sides' work for it",
    "spent_functions_us": "functions, with reading their inputs and writing their results",
    "spent_model_us": "model and its handler, with the same",
    "cpu_server_us": "CPU of the server's process, 64 connections",
    "cpu_workers_us": "CPU of the workers, 64 connections",
}


def write(figures: Figures, document: Path, pictures: Sequence[Path]) -> None:
    """Put the figures between the marks of `document`. Raises `ValueError` if it has none."""
    text = document.read_text()
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end):
        raise ValueError(f"{document} has no {BEGIN} … {END}")
    shown = [f"![{each.stem}]({each.relative_to(document.parent)})" for each in pictures]
    content = "\n".join([BEGIN, *markdown(figures), *shown, END])
    document.write_text(before + content + after)


def markdown(figures: Figures) -> Iterator[str]:
    """Yield the lines of all that was measured."""
    yield ", ".join(f"{key}: {value}" for key, value in figures.machine.items())
    yield ""
    for peer, versions in figures.versions.items():
        yield f"{peer}: " + ", ".join(f"{name} {version}" for name, version in versions.items()) + "  "
    yield ""
    yield from goals(figures)
    for workload in dict.fromkeys(run.workload for run in figures.runs):
        yield from workload_table(figures, workload)
    yield from not_compared(figures)
    yield from _own(figures)


def goals(figures: Figures) -> Iterator[str]:
    """Yield the table of goals."""
    yield from table(("goal", "reach", "stretch", "found", ""), (_goal(figures, goal) for goal in GOALS))


def _goal(figures: Figures, goal: Goal) -> Sequence[str]:
    value = goal.value(figures)
    sign = "≥" if goal.at_least else "≤"
    bounds = [
        f"{sign} {bound:g}{goal.unit}" if bound is not None else "" for bound in (goal.reach, goal.stretch)
    ]
    found = "–" if value is None else f"{value:.3g}{goal.unit}"
    return (goal.text, *bounds, found, goal.verdict(figures))


def workload_table(figures: Figures, workload: str) -> Iterator[str]:
    """Yield a workload's table: requests a second and latencies, a row for each that took turns."""
    runs = [run for run in figures.runs if run.workload == workload]
    loads = sorted({run.connections for run in runs})
    columns = [f"{n} connection{'s' * (n > 1)}" for n in loads]
    yield f"### {workload}"
    yield ""
    yield "Requests/s (p50 / p99 ms); open loop: p50 / p99 ms at half of capacity."
    yield ""
    rows = [
        (
            *_who(peer, way),
            *(_cell(figures, peer, way, workload, n) for n in loads),
            _open(figures, peer, way, workload),
        )
        for peer, way in dict.fromkeys((run.peer, run.way) for run in runs)
    ]
    yield from table(("", "beside", *columns, "open loop"), rows)


def _who(peer: str, way: str) -> tuple[str, str]:
    return (f"**{OURS}**", peer) if way == OURS else (f"{peer}, {way}", OURS)


def _cell(figures: Figures, peer: str, way: str, workload: str, connections: int) -> str:
    cell = (peer, way, workload, connections)
    runs = figures.of(*cell)
    if not runs:
        return "nothing"
    rate, p50, p99 = (figures.median(key, *cell) for key in ("rps", "p50_ms", "p99_ms"))
    setting = "" if way == OURS else f"; {runs[0].setting}"
    return f"{rate:,.0f} ({p50:.2f} / {p99:.2f}{setting})"


def _open(figures: Figures, peer: str, way: str, workload: str) -> str:
    opened = [
        run
        for run in figures.runs
        if (run.peer, run.way, run.workload, run.load) == (peer, way, workload, "open")
    ]
    if not opened:
        return "–"
    cell = (peer, way, workload, opened[0].connections, "open")
    p50, p99 = (figures.median(key, *cell) for key in ("p50_ms", "p99_ms"))
    if p50 is None:
        return "nothing"
    late = figures.median("late_ms", *cell) or 0.0
    client = f", the client {late:.2f} late" if late > LATE * p50 else ""
    return f"{p50:.2f} / {p99:.2f} at {opened[0].offered:,.0f}/s{client}"


def not_compared(figures: Figures) -> Iterator[str]:
    """Yield the table of what peers cannot do, or did not."""
    absent = [(peer, "", "", why) for peer, why in figures.missing.items()]
    refused = [(each["peer"], each["way"], each["workload"], each["why"]) for each in figures.refused]
    if absent or refused:
        yield "### Not compared"
        yield ""
        yield from table(("peer", "way", "workload", "why"), absent + refused)


def _own(figures: Figures) -> Iterator[str]:
    own = figures.own
    if "chain_1_on_ms" in own:
        yield "### Chains of functions, 16 clients, without HTTP"
        yield ""
        rows = [(str(n), *(f"{own[f'chain_{n}_{fuse}_ms']:.3f}" for fuse in ("off", "on"))) for n in LENGTHS]
        yield from table(("nodes", "ms a request, `fuse: off`", "fused"), rows)
    if "spent_http_us" in own:
        yield "### Where the time of seq-native goes, 1 connection"
        yield ""
        yield from table(("", "µs a request"), [(text, f"{own[key]:.0f}") for key, text in _SPENT.items()])


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """Yield the lines of a table, and an empty one."""
    yield _line(head)
    yield _line(["---"] * len(head))
    for row in rows:
        yield _line([cell.replace("|", "\\|").replace("\n", " ") for cell in row])
    yield ""


def _line(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
