"""A caching metric is a metric's definition; each value it is given is recorded in its store."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from .dimension import Dimension
from .metric import Metric
from .metric_type_enum import MetricTypes
from .unit import Units

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)


class CachingMetric:
    """What `add_metric_to_cache` and `get_metric` return; handlers keep it and add values to it."""

    def __init__(
        self,
        metric_name: str,
        unit: str,
        dimension_names: Sequence[str] | None = None,
        metric_type: MetricTypes = MetricTypes.COUNTER,
        record: Callable[[Metric], None] | None = None,
    ) -> None:
        self.metric_name = metric_name
        self.unit = Units.units.get(unit, unit)
        self.dimension_names = list(dimension_names or ())
        self.metric_type = metric_type
        self._record = record

    def add_or_update(
        self, value: float, dimension_values: Sequence[str] = (), request_id: str | None = None
    ) -> None:
        """Record `value`, labelled with a value for each dimension name.

        A number of labels that does not fit, or a negative count, is logged and not recorded: a wrong metric
        must not cost a request its answer.
        """
        if len(dimension_values) == len(self.dimension_names):
            self._record_if_sound(
                value, [*map(Dimension, self.dimension_names, dimension_values)], request_id
            )
        else:
            self._refuse(f"{len(dimension_values)} dimension values for {self.dimension_names}")

    def update(
        self, value: float, request_id: str | None = None, dimensions: Sequence[Dimension] = ()
    ) -> None:
        """Record `value` under other dimensions, which the metric has from now on."""
        self.dimension_names = [each.name for each in dimensions]
        labels = [
            each if type(each) is Dimension else Dimension(each.name, each.value) for each in dimensions
        ]
        self._record_if_sound(value, labels, request_id)

    def _record_if_sound(self, value: float, labels: Sequence[Dimension], request_id: str | None) -> None:
        if self.metric_type is MetricTypes.COUNTER and value < 0:
            self._refuse(f"a counter cannot fall by {value}")
        else:
            self._emit(Metric(self.metric_name, value, self.unit, labels, request_id, None, self.metric_type))

    def _refuse(self, why: str) -> None:
        logger.error("[METRICS]%s is not recorded: %s", self.metric_name, why)

    def _emit(self, metric: Metric) -> None:
        if self._record is None:
            logger.info("[METRICS]%s", metric)
        else:
            self._record(metric)
