"""The servers that cases run against: one of each kind and setting, started when the first case needs it."""

from __future__ import annotations

import contextlib
import functools
from typing import TYPE_CHECKING

import pytest

from tests.conformance import table
from tests.conformance.case import settings
from tests.conformance.targets import running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.conformance.targets import Target


@pytest.fixture(scope="session")
def target_of(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str, str], Target]]:
    """Return the running target of a kind and a setting."""
    with contextlib.ExitStack() as stack:

        @functools.cache
        def start(kind: str, setting: str) -> Target:
            directory = tmp_path_factory.mktemp(f"{kind}-{setting}")
            return stack.enter_context(running(kind, directory, settings()[setting]))

        yield start


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """Print the table of agreements if TorchServe was asked."""
    reports = [report for name in ("passed", "failed") for report in terminalreporter.stats.get(name, ())]
    outcomes = [outcome for report in reports if (outcome := table.outcome_of(report))]
    if any(outcome.kind == "torchserve" for outcome in outcomes):
        terminalreporter.section("agreement with TorchServe")
        terminalreporter.write_line(table.table(outcomes))
