"""A figure is printed beside its goal and what became of it; one that was not measured is no success."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path


class Goal(NamedTuple):
    """What a figure should be at least, or at most."""

    key: str
    what: str
    bound: float
    unit: str = "×"
    at_least: bool = False

    def met(self, number: float) -> bool:
        """Say whether `number` will do; no number (NaN) will not."""
        return number >= self.bound if self.at_least else number <= self.bound

    def line(self, number: float) -> str:
        """Return a line of the table."""
        side, verdict = "≥" if self.at_least else "≤", "met" if self.met(number) else "MISSED"
        return f"{self.key:<26}{number:>9.3g} {self.unit:<3}{side:>2} {self.bound:<6g}{verdict:<8}{self.what}"


def show(goals: Sequence[Goal], numbers: Mapping[str, float]) -> None:
    """Print the table, and how busy the machine was."""
    print(f"\n{'key':<26}{'found':>9}    {'goal':>6}{'':4}verdict")
    for goal in goals:
        print(goal.line(numbers.get(goal.key, float("nan"))))
    print(f"load average of the last minute: {os.getloadavg()[0]:.2f}")


def write(path: Path | None, numbers: Mapping[str, float]) -> None:
    """Write all numbers as JSON, if a file for them has been named."""
    if path is not None:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(dict(numbers), indent=2) + "\n")
