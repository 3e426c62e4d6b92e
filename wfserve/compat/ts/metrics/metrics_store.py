"""A store keeps a worker's metric definitions for life, and what was recorded until it is taken."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from .caching_metric import CachingMetric
from .dimension import Dimension
from .metric_cache_errors import MetricsCacheKeyError, MetricsCacheTypeError, MetricsCacheValueError
from .metric_type_enum import MetricTypes
from .unit import Units

if TYPE_CHECKING:
    from .metric import Metric

logger = logging.getLogger(__name__)

TIMES = ("ms", "s")
SIZES = ("B", "kB", "KB", "MB", "GB")
_ERROR = Dimension("Level", "Error")


@lru_cache(1)
def _of_model(name: str) -> tuple[Dimension, Dimension]:
    return Dimension("ModelName", name), Dimension("Level", "Model")


class MetricsStore:
    """What `context.metrics` is: handlers add to it, the worker takes what it holds after each batch.

    Until it is taken, values of one name, type, request and set of dimensions are one metric, except that a
    histogram keeps each value. A store that nobody takes from logs each value and keeps none.
    """

    def __init__(
        self, request_ids: Mapping[int, str] | None, model_name: str, *, is_taken: bool = True
    ) -> None:
        self.request_ids = request_ids
        self.model_name = model_name
        self.is_taken = is_taken
        self.store: list[Metric] = []
        self.cache: dict[MetricTypes, dict[str, CachingMetric]] = {}
        self._known: dict[object, Metric] = {}

    def take(self) -> list[Metric]:
        """Return what was recorded since the last time, and forget it; the definitions stay."""
        taken, self.store, self._known = self.store, [], {}
        return taken

    def set_request_ids(self, request_ids: Mapping[int, str]) -> None:
        """Name the requests that values are recorded for from now on."""
        self.request_ids = request_ids

    def add_metric_to_cache(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] = (),
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> CachingMetric:
        """Define a metric, in place of any of that name and type. Raises `MetricsCacheTypeError`."""
        _expect(metric_name, str, "`metric_name` must be a str")
        _expect(unit, str, "`unit` must be a str")
        _expect_type(metric_type)
        names = () if isinstance(dimension_names, str) else dimension_names or ()
        if dimension_names and not (names and isinstance(names, Sequence)):
            raise MetricsCacheTypeError("`dimension_names` should be a list of dimension name strings")
        metric = CachingMetric(metric_name, unit, names, metric_type, self._record)
        self.cache.setdefault(metric_type, {})[metric_name] = metric
        return metric

    def get_metric(self, metric_name: str, metric_type: MetricTypes = MetricTypes.COUNTER) -> CachingMetric:
        """Return a defined metric.

        Raises `MetricsCacheKeyError` if there is none of that name and type, `MetricsCacheTypeError` if these
        are no name and no type.
        """
        _expect(metric_name, str, "`metric_name` must be a str")
        _expect_type(metric_type)
        try:
            return self.cache[metric_type][metric_name]
        except KeyError:
            raise MetricsCacheKeyError(
                f"Metric of type '{metric_type}' and name '{metric_name}' doesn't exist"
            ) from None

    def cache_keys(self) -> list[str]:
        """Return `type:name` of each definition."""
        return [f"{kind.value}:{name}" for kind, metrics in self.cache.items() for name in metrics]

    def add_counter(
        self, name: str, value: float, idx: int | None = None, dimensions: Sequence[Dimension] | None = None
    ) -> None:
        """Add `value` to the counter `name`."""
        self._add(name, value, "count", idx, dimensions, MetricTypes.COUNTER)

    def add_error(self, name: str, value: float | str, dimensions: Sequence[Dimension] | None = None) -> None:
        """Count the error `name`; a text counts as one."""
        count = value if isinstance(value, (int, float)) else 1
        labels = _with_defaults(dimensions, _ERROR)
        self._metric(name, "", MetricTypes.COUNTER, labels).update(count, None, labels)

    def add_time(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "ms",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a duration in `unit`, ms or s. Raises `ValueError` for another unit."""
        _expect_unit(unit, TIMES, name)
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_size(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        unit: str = "MB",
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a size in `unit`: B, kB, MB or GB. Raises `ValueError` for another unit."""
        _expect_unit(unit, SIZES, name)
        self._add(name, value, unit, idx, dimensions, metric_type)

    def add_percent(
        self,
        name: str,
        value: float,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.GAUGE,
    ) -> None:
        """Record a percentage."""
        self._add(name, value, "percent", idx, dimensions, metric_type)

    def add_metric(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None = None,
        dimensions: Sequence[Dimension] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
    ) -> None:
        """Record a value in any unit; unless told otherwise it counts."""
        self._add(name, value, unit, idx, dimensions, metric_type)

    def _add(
        self,
        name: str,
        value: float,
        unit: str,
        idx: int | None,
        dimensions: Sequence[Dimension] | None,
        metric_type: MetricTypes,
    ) -> None:
        labels = _with_defaults(dimensions, *self._default_dimensions())
        self._metric(name, unit, metric_type, labels).update(value, self._request_id(idx), labels)

    def _default_dimensions(self) -> Sequence[Dimension]:
        return (_ERROR,) if self.request_ids is None else _of_model(self.model_name)

    def _request_id(self, idx: int | None) -> str | None:
        """Return the id of one request of the batch, or of all of them if `idx` names none."""
        ids = self.request_ids
        if not isinstance(ids, Mapping):  # the one id itself, as tests of handlers have it
            return ids
        return ids[idx] if idx is not None and idx in ids else ",".join(ids.values()) or None

    def _metric(
        self, name: str, unit: str, metric_type: MetricTypes, labels: Sequence[Dimension]
    ) -> CachingMetric:
        defined = self.cache.get(metric_type, {}).get(name)
        if defined is not None and defined.unit == Units.units.get(unit, unit):
            return defined
        return self.add_metric_to_cache(name, unit, [each.name for each in labels], metric_type)

    def _record(self, metric: Metric) -> None:
        if not self.is_taken:
            logger.info("[METRICS]%s", metric)
            return
        if metric.metric_type is MetricTypes.HISTOGRAM:
            self.store.append(metric)
            return
        key = (metric.name, metric.unit, metric.metric_type, metric.request_id, *metric.dimensions)
        known = self._known.get(key)
        if known is not None:
            known.update(metric.value)
            return
        self._known[key] = metric
        self.store.append(metric)


def _with_defaults(dimensions: Sequence[Dimension] | None, *defaults: Dimension) -> list[Dimension]:
    """Return the dimensions, and those of the defaults that none of them is named like."""
    if not dimensions:
        return [*defaults]
    given = list(dimensions)
    names = {each.name for each in given}
    return given + [each for each in defaults if each.name not in names]


def _expect(value: object, kind: type, message: str) -> None:
    if not isinstance(value, kind):
        raise MetricsCacheTypeError(message)


def _expect_type(metric_type: object) -> None:
    _expect(metric_type, MetricTypes, "`metric_type` must be a MetricTypes enum")


def _expect_unit(unit: str, units: tuple[str, ...], name: str) -> None:
    if unit not in units:
        raise MetricsCacheValueError(f"the unit of {name} is one of {', '.join(units)}, not {unit}")
