"""wfserve beside its peers, in turns on one machine: every figure is from one run, losses included.

    python -m bench.compare [--peers mosec,...] [--workloads seq-native,...] [--connections 1,16,64]
                            [--seconds 3] [--rounds 3] [--json FILE] [--document docs/performance.md]
    python -m bench.compare --from FILE --document docs/performance.md     writes the report of an earlier run

Peers are installed from PyPI below `build/peers/`; one that cannot be is said in the report, and the others
are measured. wfserve runs with one setting throughout; a peer runs, under each load, with the best of those
that were tried. Loads: closed loop by `wrk -t1`, open loop by `bench/comparison/openloop.py`. Answers are
checked before anything is measured; a run with an error counts as nothing. `--no-own` leaves out the rows
about wfserve alone.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import torch

import wfserve
from bench import server as empty
from bench.comparison import chains, plots, report, scale, spent
from bench.comparison.figures import Figures
from bench.comparison.idle import raise_limit
from bench.comparison.rounds import Contest, Plan
from bench.load import tool
from bench.peers.base import WORKLOADS, Peer, build_all
from bench.peers.environment import SetUpError, set_up, with_torch
from bench.peers.litserve import LitServe
from bench.peers.mosec import Mosec
from bench.peers.ray import RayServe
from bench.peers.torchserve import TorchServe
from bench.serve import FIRST, Server

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = ROOT / "build" / "peers"
PEERS: dict[str, type[Peer]] = {peer.name: peer for peer in (Mosec, TorchServe, LitServe, RayServe)}
UVICORN = ("uvicorn", "uvloop", "httptools")
ASGI_CONNECTIONS = 16


def machine() -> dict[str, str]:
    """Return what has to be known of where the figures are from."""
    cores = len(os.sched_getaffinity(0))
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), "unknown")
    return {
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "machine": f"{cores} cores ({model}), Linux {platform.release()}",
        "wfserve": wfserve.__version__,
        "Python": platform.python_version(),
        "PyTorch": torch.__version__,
        "load by": tool(),
        "load average before": f"{os.getloadavg()[0]:.2f}",
        "command": " ".join(["python -m bench.compare", *sys.argv[1:]]),
    }


def compare(server: Server, store: Path, names: Sequence[str], plan: Plan, figures: Figures) -> None:
    """Measure the peers of `names`, each that can be set up."""
    for name in names:
        peer = PEERS[name]()
        try:
            if lacks := peer.lacks():
                raise SetUpError(lacks)
            environment = set_up(ENVIRONMENTS / name, with_torch(peer.requirements))
        except SetUpError as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            figures.missing[name] = str(error)
            continue
        figures.versions[name] = environment.versions
        Contest(peer, environment.python, store, server.inference, plan, figures).run()


def measure_own(server: Server, store: Path, plan: Plan, figures: Figures) -> None:
    """Measure the rows about wfserve alone; what fails is said, and the others are measured."""
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "time spent": lambda: spent.run(server, store, plan.seconds),
        "scale": lambda: scale.run(server, store, plan.seconds),
        "chains": lambda: chains.run(store, plan.seconds),
        "empty application": lambda: empty_application(plan, figures),
    }
    for name, part in parts.items():
        try:
            figures.own |= part()
        except (OSError, subprocess.SubprocessError) as error:
            print(f"{name}: {error}", file=sys.stderr, flush=True)
            figures.missing[f"wfserve, {name}"] = str(error)


def empty_application(plan: Plan, figures: Figures) -> dict[str, float]:
    """Return our rate of empty requests as a multiple of other ASGI servers'."""
    pythons = dict.fromkeys(("wfserve", "hypercorn"), sys.executable)
    try:
        environment = set_up(ENVIRONMENTS / "uvicorn", UVICORN)
        pythons["uvicorn"] = str(environment.python)
        figures.versions["uvicorn"] = environment.versions
    except SetUpError as error:
        figures.missing["uvicorn"] = str(error)
    rounds = empty.measure(pythons, ASGI_CONNECTIONS, plan.rounds, max(1, round(plan.seconds)))
    found = empty.show(rounds, ASGI_CONNECTIONS)
    return {name.replace("wfserve_", "asgi_"): value for name, value in found.items() if "_vs_" in name}


def measure_all(arguments: argparse.Namespace, figures: Figures) -> None:
    """Start one wfserve with all workloads and measure what the arguments ask for."""
    plan = Plan(
        arguments.workloads, arguments.connections, arguments.seconds, arguments.rounds, arguments.trial
    )
    with tempfile.TemporaryDirectory(prefix="wfserve-compare-") as directory:
        store = Path(directory) / "store"
        store.mkdir()
        build_all(store)
        with Server(Path(directory), store) as server:
            for workload in WORKLOADS:
                if workload != FIRST:
                    server.register(workload)
            if arguments.own:
                measure_own(server, store, plan, figures)
            compare(server, store, arguments.peers, plan, figures)


def publish(figures: Figures, document: Path) -> None:
    """Write the report into a document, and its plots beside it where they can be drawn."""
    try:
        pictures = plots.draw(figures, document.parent / "plots")
    except ImportError:
        print("no plots: matplotlib is not installed (pip install 'wfserve[plots]')", file=sys.stderr)
        pictures = []
    report.write(figures, document, pictures)


def _among(known: Sequence[str]) -> Callable[[str], list[str]]:
    """Return what reads a list of names."""

    def read(text: str) -> list[str]:
        names = [name for name in text.split(",") if name]
        if unknown := [name for name in names if name not in known]:
            raise argparse.ArgumentTypeError(f"no {', '.join(unknown)}; there are {', '.join(known)}")
        return names

    return read


def _numbers(text: str) -> list[int]:
    return [int(number) for number in text.split(",")]


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return what the command line says."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    known = list(PEERS)
    parser.add_argument("--peers", type=_among(known), default=known, metavar="NAME,...")
    parser.add_argument("--workloads", type=_among(WORKLOADS), default=list(WORKLOADS), metavar="NAME,...")
    parser.add_argument("--connections", type=_numbers, default=[1, 16, 64], metavar="N,...")
    parser.add_argument("--seconds", type=float, default=3.0, help="of a turn (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of turns (default: %(default)s)")
    parser.add_argument(
        "--trial", type=float, default=1.0, help="seconds to try a setting (default: %(default)s)"
    )
    parser.add_argument(
        "--own", action=argparse.BooleanOptionalAction, default=True, help="rows of wfserve alone"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the raw figures here")
    parser.add_argument(
        "--from", dest="earlier", type=Path, metavar="FILE", help="measure nothing; report these"
    )
    parser.add_argument("--document", type=Path, metavar="FILE", help="write the report between its marks")
    return parser.parse_args(arguments)


def main() -> None:
    """Run the command line; what has been measured is written also when it is cut short."""
    arguments = parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # so that what was started is stopped
    raise_limit()
    if arguments.earlier:
        figures = Figures.from_json(json.loads(arguments.earlier.read_text()))
    else:
        figures = Figures(machine())
        try:
            measure_all(arguments, figures)
        finally:
            if arguments.json:
                arguments.json.write_text(json.dumps(figures.to_json(), indent=1, ensure_ascii=False) + "\n")
    print("\n".join(report.markdown(figures)))
    if arguments.document:
        publish(figures, arguments.document)


if __name__ == "__main__":
    main()
