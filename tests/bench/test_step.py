"""A step is measured with a real server; what is summed are the node's own series."""

import json
import subprocess
import sys
from pathlib import Path

from bench.step import Watched

ROOT = Path(__file__).resolve().parents[2]
METRICS = """\
wfserve_requests_in_flight{workflow="img-native"} 2.0
wfserve_requests_in_flight{workflow="other"} 9.0
wfserve_workers_idle{node="m1",workflow="img-native"} 1.0
wfserve_workers_idle{node="pre_img",workflow="img-native"} 1.0
wfserve_workers_running{node="m1",workflow="img-native"} 1.0
"""


class Metrics:
    """A server that only answers for its metrics."""

    metrics = 8082

    def call(self, method, port, path):
        assert (method, port, path.partition("?")[0]) == ("GET", 8082, "/metrics")
        return METRICS.encode()


def test_what_is_watched():
    node = Watched(Metrics())
    assert node.busy()
    assert node.workers() == 2


def test_a_step_is_measured(tmp_path):
    report = tmp_path / "step.json"
    command = [sys.executable, "-m", "bench.step", "--seconds", "1", "--json", str(report)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads(report.read_text())
    assert 0 < numbers["seconds_to_second_worker"] < numbers["seconds_to_one_worker"]
    for name in ("before", "during", "after"):
        assert 0 < numbers[f"p50_ms_{name}"] <= numbers[f"p99_ms_{name}"]
        assert f"{numbers[f'p99_ms_{name}']:.2f}" in done.stdout
