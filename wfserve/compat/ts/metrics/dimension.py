"""A dimension is a label of a metric: a name and a value."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Dimension:
    """One label."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"
