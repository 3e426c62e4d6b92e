"""What a load step from 1 to 64 clients costs, on img-native with one worker that may become two.

    python -m bench.step [--seconds 4] [--json FILE]

The step begins when the server has more requests than the one client can have sent. Latencies are those of
one client before it, of all clients in the first second of it, and of all clients once there are two workers.
"""

from __future__ import annotations

import argparse
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from bench.goals import Goal, show, write
from bench.load import Target, measure
from bench.serve import Server, check_answer
from bench.workloads.build import body, build

if TYPE_CHECKING:
    from collections.abc import Callable
    from concurrent.futures import Executor

    from bench.load import Measurement

WORKFLOW, NODE = "img-native", "m1"
CLIENTS = 64
WORKERS = 2
STEP = 1.0  # seconds of the load that is called the step
IDLE = 3.0  # seconds without use, before a worker goes
GLANCE = 0.01  # seconds between looks at the metrics
PATIENCE = 30.0  # seconds for a worker to come, or to go
GOALS = (
    Goal("seconds_to_second_worker", "from the step to a second worker that has loaded", 1, "s"),
    Goal("seconds_to_one_worker", "from the end of the load to one worker, of which IDLE is 3", 6, "s"),
)


class Watched:
    """The node of a server, by its metrics."""

    def __init__(self, server: Server) -> None:
        self._server = server

    def _sum(self, *names: str) -> float:
        """Return the sum of the series of these names that are the node's, or the workflow's."""
        query = "&".join(f"name[]={name}" for name in names)
        text = self._server.call("GET", self._server.metrics, f"/metrics?{query}").decode()
        shown = {f'{name}{{workflow="{WORKFLOW}"}}' for name in names}
        shown |= {f'{name}{{node="{NODE}",workflow="{WORKFLOW}"}}' for name in names}
        series = (line.rpartition(" ") for line in text.splitlines())
        return sum(float(value) for name, _, value in series if name in shown)

    def busy(self) -> bool:
        """Whether more requests are under way than one client can have sent."""
        return self._sum("wfserve_requests_in_flight") > 1

    def workers(self) -> float:
        """Return how many workers have loaded."""
        return self._sum("wfserve_workers_idle", "wfserve_workers_running")

    @staticmethod
    def until(holds: Callable[[], bool]) -> float:
        """Return the seconds until something holds; NaN if it does not in `PATIENCE`."""
        begun = time.perf_counter()
        while not holds():
            if time.perf_counter() - begun > PATIENCE:
                return float("nan")
            time.sleep(GLANCE)
        return time.perf_counter() - begun


def step(server: Server, target: Target, seconds: float, executor: Executor) -> dict[str, float]:
    """Step up and down again; return what was found."""
    node = Watched(server)
    before = measure(target, 1, seconds)
    load = executor.submit(measure, target, CLIENTS, STEP)
    node.until(node.busy)
    numbers = {"seconds_to_second_worker": node.until(lambda: node.workers() >= WORKERS)}
    during = load.result()
    after = measure(target, CLIENTS, seconds)
    numbers["seconds_to_one_worker"] = node.until(lambda: node.workers() < WORKERS)
    for name, found in (("before", before), ("during", during), ("after", after)):
        numbers |= _latencies(name, found)
    return numbers


def _latencies(name: str, found: Measurement) -> dict[str, float]:
    if found.rate is None:
        raise SystemExit(f"{name} the step an answer was an error, or there was none")
    return {f"p50_ms_{name}": found.p50_ms, f"p99_ms_{name}": found.p99_ms, f"rps_{name}": found.rate}


def figures(seconds: float) -> dict[str, float]:
    """Run a server and step."""
    with TemporaryDirectory(prefix="wfserve-bench-") as name, ThreadPoolExecutor(1) as executor:
        store = Path(name) / "store"
        store.mkdir()
        build(store)
        with Server(Path(name), store, WORKFLOW, worker_idle_timeout=str(IDLE)) as server:
            if not check_answer(server, WORKFLOW, store):
                raise SystemExit(1)
            server.call("PUT", server.management, f"/workflows/{WORKFLOW}?node={NODE}&max_worker={WORKERS}")
            target = Target(server.inference, f"/wfpredict/{WORKFLOW}", body(WORKFLOW, store))
            return step(server, target, seconds, executor)


def main() -> None:
    """Print the latencies and the times, and write them as JSON if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--seconds", type=float, default=4.0, help="before and after (default: %(default)s)")
    parser.add_argument("--json", type=Path, metavar="FILE", help="also write the numbers here")
    arguments = parser.parse_args()
    numbers = figures(arguments.seconds)
    print(f"{'':<8}{'p50 ms':>9}{'p99 ms':>9}{'req/s':>9}")
    for name in ("before", "during", "after"):
        found = (numbers[f"{key}_{name}"] for key in ("p50_ms", "p99_ms", "rps"))
        print(f"{name:<8}" + "".join(f"{each:>9.2f}" for each in found))
    show(GOALS, numbers)
    write(arguments.json, numbers)


if __name__ == "__main__":
    main()
