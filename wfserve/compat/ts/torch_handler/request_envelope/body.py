"""Rows are what requests carry, without the parameter's name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..base_handler import row_value
from .base import BaseEnvelope

if TYPE_CHECKING:
    from collections.abc import Sequence


class BodyEnvelope(BaseEnvelope):
    """Unwraps `data` or `body`; leaves results alone, and rows that have neither."""

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        """Return each request's value."""
        return [row_value(row) if "data" in row or "body" in row else row for row in data]

    def format_output(self, data: Any) -> Any:
        """Return the results."""
        return data
