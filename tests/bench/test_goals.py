"""A figure that was not measured is no success, and neither is one on the wrong side."""

import json

import pytest

from bench.goals import Goal, show, write

MOST = Goal("hop", "a hop", 15, "µs")
LEAST = Goal("speedup", "how much faster", 5, at_least=True)


@pytest.mark.parametrize(
    ("goal", "number", "met"),
    [
        (MOST, 15, True),
        (MOST, 15.1, False),
        (LEAST, 5, True),
        (LEAST, 4.9, False),
        (MOST, float("nan"), False),
        (LEAST, float("nan"), False),
    ],
)
def test_a_goal_has_a_side(goal, number, met):
    assert goal.met(number) is met


def test_the_table_has_a_line_for_each_goal(capsys):
    show((MOST, LEAST), {"hop": 12})
    _, _, hop, speedup, _ = capsys.readouterr().out.splitlines()
    assert hop.split()[:6] == ["hop", "12", "µs", "≤", "15", "met"]
    assert speedup.split()[:6] == ["speedup", "nan", "×", "≥", "5", "MISSED"]


def test_numbers_are_written_where_there_is_no_directory_yet(tmp_path):
    file = tmp_path / "build" / "numbers.json"
    write(file, {"hop": 1.5})
    assert json.loads(file.read_text()) == {"hop": 1.5}
    write(None, {"hop": 1.5})
