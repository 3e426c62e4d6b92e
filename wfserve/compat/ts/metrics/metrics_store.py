"""A store holds what one batch recorded, a metric for each name, unit, request and set of dimensions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .dimension import Dimension
from .metric import Metric

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class MetricsStore:
    """What `context.metrics` is: handlers add to it, the worker reads `store` after the batch."""

    def __init__(self, request_ids: Mapping[int, str] | None, model_name: str) -> None:
        self.store: list[Metric] = []
        self.request_ids = request_ids
        self.model_name = model_name
        self._known: dict[object, Metric] = {}

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Add `value` to the counter `name`."""
        self._record(name, value, "count", idx, dimensions, "counter")

    def add_error(self, name: str, value: float | str, dimensions: Sequence[Dimension] | None = None) -> None:
        """Record the error `name`; a number is counted, a text counts as one."""
        count = value if isinstance(value, (int, float)) else 1
        self._record(name, count, "", None, dimensions, "counter")

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Record a duration in `unit`, ms or s. Raises `ValueError` for another unit."""
        self._record_in(("ms", "s"), name, value, idx, unit, dimensions)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Record a size in `unit`: B, kB, MB or GB. Raises `ValueError` for another unit."""
        self._record_in(("B", "kB", "KB", "MB", "GB"), name, value, idx, unit, dimensions)

    def add_percent(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Record a percentage."""
        self._record(name, value, "percent", idx, dimensions)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
    ) -> None:
        """Record a value in any unit."""
        self._record(name, value, unit, idx, dimensions)

    def _record_in(
        self,
        units: tuple[str, ...],
        name: str,
        value: float,
        idx: int | None,
        unit: str,
        dimensions: Sequence[Dimension] | None,
    ) -> None:
        if unit not in units:
            raise ValueError(f"the unit of {name} is one of {', '.join(units)}, not {unit}")
        self._record(name, value, unit, idx, dimensions)

    def _record(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None,
        dimensions: Sequence[Dimension] | None,
        method: str | None = None,
    ) -> None:
        request_id = None if idx is None or self.request_ids is None else self.request_ids.get(idx)
        labels = (*(dimensions or ()), Dimension("ModelName", self.model_name), Dimension("Level", "Model"))
        key = (name, unit, request_id, labels)
        known = self._known.get(key)
        if known is not None:
            known.update(value)
            return
        self._known[key] = metric = Metric(name, value, unit, labels, request_id, method)
        self.store.append(metric)
