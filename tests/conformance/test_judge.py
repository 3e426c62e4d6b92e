"""Each check of a judge refuses what it is there to refuse."""

from __future__ import annotations

import pytest

from tests.conformance.judge import CHECKS, Response, judge
from tests.conformance.table import Outcome, table

HEADERS = {"content-type": "application/json", "x-id": "a1"}
ANSWER = Response(200, HEADERS, b'{"a": [1, {"b": "two"}], "c": null}\n')


@pytest.mark.parametrize(
    "expected",
    [
        {"status": 200},
        {"headers": {"Content-Type": "application/json", "X-Id": "/[a-z][0-9]/", "X-None": None}},
        {"text": '{"a": [1, {"b": "two"}], "c": null}\n'},
        {"match": r"\{.*\}\n"},
        {"json": {"a": [1, {"b": "/t.o/"}], "c": None}},
        {"subset": {"a": [1, {}]}},
        {"status": 200, "subset": {"c": None}, "match": ".*two.*"},
    ],
)
def test_what_holds(expected):
    assert judge(expected, ANSWER) == []


@pytest.mark.parametrize(
    "expected",
    [
        {"status": 201},
        {"headers": {"Content-Type": "text/plain"}},
        {"headers": {"X-Id": None}},
        {"headers": {"X-Id": "/[a-z]/"}},
        {"headers": {"X-None": "/.*/"}},
        {"text": '{"a": [1, {"b": "two"}], "c": null}'},
        {"match": r"\{"},
        {"json": {"a": [1, {"b": "two"}]}},
        {"json": {"a": [True, {"b": "two"}], "c": None}},
        {"json": {"a": [1.0, {"b": "two"}], "c": None}},
        {"subset": {"a": [1]}},
        {"subset": {"a": [1, {"b": "three"}]}},
        {"subset": {"d": None}},
        {"subset": {"c": {}}},
    ],
)
def test_what_does_not_hold(expected):
    (problem,) = judge(expected, ANSWER)
    assert problem


def test_every_fault_is_told():
    assert len(judge({"status": 404, "text": "no", "headers": {"X-Id": "b"}}, ANSWER)) == 3


def test_a_body_that_is_no_json():
    (problem,) = judge({"json": {}}, Response(200, {}, b"\xff"))
    assert "not JSON" in problem


def test_a_check_that_does_not_exist():
    with pytest.raises(KeyError):
        judge({"stauts": 200}, ANSWER)
    assert "stauts" not in CHECKS


def test_the_table_counts_by_section():
    outcomes = [Outcome("serve", "C", verdict) for verdict in ("agree", "agree", "disagree")]
    lines = table([*outcomes, Outcome("serve", "D", "listed")]).splitlines()
    assert [line.split() for line in lines] == [
        ["target", "section", "cases", "agree", "listed", "disagree"],
        ["serve", "C", "3", "2", "0", "1"],
        ["serve", "D", "1", "0", "1", "0"],
        ["serve", "all", "4", "2", "1", "1"],
    ]
