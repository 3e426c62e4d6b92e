"""Figures survive their way through JSON; runs with errors count as nothing, in goals and tables too."""

import json

import pytest

from bench.comparison import report
from bench.comparison.chains import of_goals
from bench.comparison.figures import OURS, Figures, Run
from bench.comparison.goals import at_least, at_most, own, rate, tail


def run(way, rps, *, load="closed", workload="seq-native", connections=64, p50=2.0, p99=5.0):
    errors = int(rps is None)
    offered = 50.0 if load == "open" else None
    return Run("mosec", way, workload, load, connections, "batch 8, 1 worker", offered, rps, p50, p99, errors)


@pytest.fixture
def figures():
    runs = [run(OURS, 300.0), run("staged", 100.0), run(OURS, None), run(OURS, 500.0), run("staged", 200.0)]
    opened = run(OURS, 100.0, load="open")
    return Figures({"machine": "one"}, runs=[*runs, opened], own={"register_s": 0.2})


def test_json_keeps_everything(figures):
    assert Figures.from_json(json.loads(json.dumps(figures.to_json()))) == figures


def test_a_ratio_is_of_medians_without_the_runs_that_failed(figures):
    assert figures.rate_ratio("mosec", "staged", "seq-native", 64) == 400 / 150
    assert figures.rate_ratio("mosec", "fused", "seq-native", 64) is None


def test_a_peer_with_nothing_but_errors_is_not_beaten():
    figures = Figures(runs=[run(OURS, 300.0), run("staged", None)])
    assert at_least("", rate("mosec", "staged", "seq-native", 64), 1.5).verdict(figures) == "not measured"


@pytest.mark.parametrize(
    ("goal", "verdict"),
    [
        (at_least("", own("register_s"), 0.2), "reached"),
        (at_least("", own("register_s"), 0.21), "**missed**"),
        (at_least("", own("register_s"), 0.1, 0.2), "reached, stretch too"),
        (at_least("", own("register_s"), 0.1, 0.3), "reached"),
        (at_most("", own("register_s"), 0.2), "reached"),
        (at_most("", own("register_s"), 0.19), "**missed**"),
        (at_most("", own("register_s"), 0.3, 0.2), "reached, stretch too"),
        (at_most("", own("register_s"), 0.3, 0.1), "reached"),
        (at_most("", own("another"), 0.3), "not measured"),
        (at_most("", tail("mosec", "seq-native"), 2.5), "reached"),
        (at_most("", tail("mosec", "seq-native"), 2.4), "**missed**"),
    ],
)
def test_verdicts(figures, goal, verdict):
    assert goal.verdict(figures) == verdict


def test_a_tail_at_more_than_full_load_is_none(figures):
    figures.runs.append(run(OURS, 100.0, load="open", p50=7.0, p99=8.0))
    assert tail("mosec", "seq-native")(figures) is None


def test_a_linear_chain_grows_by_one():
    costs = {f"chain_{n}_off_ms": 1.0 + 2 * n for n in (1, 8, 16, 32)} | {"chain_32_on_ms": 6.5}
    assert of_goals(costs) == {"chain_growth": 1.0, "chain_fused": 0.1}


def test_only_what_is_between_the_marks_is_written(figures, tmp_path):
    document = tmp_path / "performance.md"
    document.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
    figures.versions["mosec"] = {"mosec": "0.9.8", "numpy": "2.4"}
    for _ in range(2):  # the second time over the first
        report.write(figures, document, [tmp_path / "plots" / "rates.svg"])
    text = document.read_text()
    assert text.startswith(f"before\n{report.BEGIN}\nmachine: one\n")
    assert text.endswith(f"![rates](plots/rates.svg)\n{report.END}\nafter\n")
    assert "old" not in text
    assert text.count("mosec: mosec 0.9.8, numpy 2.4  \n") == 1
    assert text.count("400 (2.00 / 5.00)") == text.count("2.00 / 5.00 at 50/s") == 1


def test_a_document_without_marks_is_left_alone(figures, tmp_path):
    document = tmp_path / "performance.md"
    document.write_text(f"{report.BEGIN} and no end\n")
    with pytest.raises(ValueError, match="has no"):
        report.write(figures, document, [])
    assert document.read_text() == f"{report.BEGIN} and no end\n"


def test_what_was_not_compared_is_said(figures):
    figures.missing["ray"] = "ERROR: no matching distribution"
    figures.refused.append({"peer": "mosec", "way": "staged", "workload": "img-bytes", "why": "this | that"})
    lines = list(report.not_compared(figures))
    assert "| ray |  |  | ERROR: no matching distribution |" in lines
    assert "| mosec | staged | img-bytes | this \\| that |" in lines
