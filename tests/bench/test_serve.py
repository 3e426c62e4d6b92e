"""One cell of the table, from the command line to the JSON file, with a real server."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.serve import memory

ROOT = Path(__file__).resolve().parents[2]


def bench(*arguments):
    command = [sys.executable, "-m", "bench.serve", *map(str, arguments)]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_a_cell_is_measured(tmp_path):
    report = tmp_path / "report.json"
    done = bench("--workloads", "seq-native", "--connections", 2, "--seconds", 1, "--json", report)
    assert done.returncode == 0, done.stdout + done.stderr
    numbers = json.loads(report.read_text())
    (cell,) = numbers["cells"]
    assert (cell["workload"], cell["connections"], cell["errors"]) == ("seq-native", 2, 0)
    assert cell["rps"] > 1
    assert numbers["register_s"].keys() == {"seq-bytes", "seq-native", "img-bytes", "img-native"}
    assert 1 < numbers["worker"]["pss_mib"] <= numbers["worker"]["rss_mib"]
    assert f"{cell['rps']:,.0f}" in done.stdout


def test_an_unknown_workload_is_refused():
    done = bench("--workloads", "seq-native,sequence")
    assert done.returncode == 2
    assert "no workload sequence" in done.stderr


def test_memory_is_in_mebibytes():
    own = memory(os.getpid())
    assert own["rss_mib"] == pytest.approx(_resident(), rel=0.2)


def _resident():
    line = next(line for line in Path("/proc/self/status").read_text().splitlines() if "VmRSS" in line)
    return int(line.split()[1]) / 1024
