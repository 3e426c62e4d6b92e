"""The table of agreements counts every case once a target: it agrees, differs as listed, or disagrees."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pytest

VERDICTS = ("agree", "listed", "disagree")


class Outcome(NamedTuple):
    """What became of one case on one kind of server."""

    kind: str
    section: str
    verdict: str


def outcome_of(report: pytest.TestReport) -> Outcome | None:
    """Return the outcome that a test recorded, None if it is not a case's."""
    said = dict(report.user_properties)
    if "conformance" not in said or report.when != "call":
        return None
    kind, section, differs = said["conformance"]
    if report.failed:
        return Outcome(kind, section, "disagree")
    return Outcome(kind, section, "listed" if differs else "agree")


def table(outcomes: Iterable[Outcome]) -> str:
    """Return the counts by target and section, with a total a target."""
    counted = list(outcomes)
    counts = Counter(counted)
    lines = [("target", "section", "cases", *VERDICTS)]
    for kind in dict.fromkeys(outcome.kind for outcome in counted):
        sections = sorted({outcome.section for outcome in counted if outcome.kind == kind})
        rows = [[counts[Outcome(kind, section, v)] for v in VERDICTS] for section in sections]
        totals = [sum(column) for column in zip(*rows, strict=True)]
        for section, row in [*zip(sections, rows, strict=True), ("all", totals)]:
            lines.append((kind, section, str(sum(row)), *map(str, row)))
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join("  ".join(map(str.ljust, line, widths)).rstrip() for line in lines)
