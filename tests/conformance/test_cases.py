"""Every case of `cases/` holds on both of wfserve's servers, and on TorchServe where TORCHSERVE names one.

Archives and specifications do not depend on who parses HTTP: `make test` tries them on one server.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.conformance.case import suites
from tests.conformance.targets import KINDS

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conformance.case import Case, Suite
    from tests.conformance.targets import Target


SUITES = list(suites())
ARCHIVES = "AB"  # the sections that are about archives


def _parameters() -> Iterator[object]:
    """Give each kind of server all cases of one setting before those of the next."""
    for kind in KINDS:
        if kind == "torchserve" and not os.environ.get("TORCHSERVE"):
            continue
        for suite in sorted(SUITES, key=lambda each: each.settings):
            marks = _marks(kind, suite)
            for case in suite.cases:
                yield pytest.param(kind, suite, case, id=f"{kind}-{suite.name}-{case.title}", marks=marks)


def _marks(kind: str, suite: Suite) -> list[pytest.MarkDecorator]:
    if kind == "torchserve":
        return [pytest.mark.peer]
    return [pytest.mark.slow] if kind == "hypercorn" and suite.section in ARCHIVES else []


@pytest.mark.parametrize(("kind", "suite", "case"), list(_parameters()))
def test_case(
    kind: str,
    suite: Suite,
    case: Case,
    target_of: Callable[[str, str], Target],
    record_property: Callable[[str, object], None],
) -> None:
    record_property("conformance", (kind, suite.section, bool(case.differences)))
    problems = target_of(kind, suite.settings).play(suite, case)
    assert not problems, "\n".join(problems)
