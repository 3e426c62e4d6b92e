"""Each deliberate difference stands in docs/compatibility.md with its reason, and no other."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.conformance.case import suites
from tests.conformance.judge import CHECKS

DOCUMENT = Path(__file__).resolve().parents[2] / "docs" / "compatibility.md"
CASES = [(suite, case) for suite in suites() for case in suite.cases]
STEPS = [step for _, case in CASES for step in case.steps]


def test_the_document_lists_what_the_cases_show():
    rows = re.findall(r"^\| `([\w-]+)` \|(.*)\|(.*)\|(.*)\|$", DOCUMENT.read_text(), re.MULTILINE)
    shown = {name for _, case in CASES for name in case.differences}
    assert sorted(name for name, *_ in rows) == sorted(shown)
    assert all(cell.strip() for _, *cells in rows for cell in cells)


@pytest.mark.parametrize("step", [step for step in STEPS if step.difference], ids=lambda step: step.path)
def test_a_difference_is_one(step):
    assert step.difference.torchserve != step.expect


def test_every_check_exists():
    for step in STEPS:
        for torchserve in (True, False):
            assert step.expected_of(torchserve=torchserve).keys() <= CHECKS.keys(), step


def test_names_of_cases_are_unique():
    names = [(suite.name, case.title) for suite, case in CASES]
    assert len(set(names)) == len(names)


def test_there_are_cases_of_every_section():
    sections = [suite.section for suite, _ in CASES]
    assert len(sections) >= 150
    assert set(sections) == set("ABCDE")
