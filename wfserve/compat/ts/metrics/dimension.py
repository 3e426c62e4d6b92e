"""A dimension is a label of a metric: a name and a value."""

from __future__ import annotations

from typing import NamedTuple


class Dimension(NamedTuple):
    """One label."""

    name: str
    value: str

    def __str__(self) -> str:
        return f"{self.name}:{self.value}"

    def to_dict(self) -> dict[str, str]:
        """Return the label as `{"Name": …, "Value": …}`."""
        return {"Name": self.name, "Value": self.value}
