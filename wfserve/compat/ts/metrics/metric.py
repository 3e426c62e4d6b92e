"""A metric is a number with a name, a unit, a type and dimensions, recorded at a moment."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING, Any

from .metric_type_enum import MetricTypes
from .unit import Units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .dimension import Dimension


class Metric:
    """One recorded value; `update` adds to a counter and replaces anything else."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
        metric_type: MetricTypes | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = Units.units.get(unit, unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        if metric_type is None:
            metric_type = MetricTypes.COUNTER if metric_method == "counter" else MetricTypes.GAUGE
        self.metric_type = metric_type
        self.timestamp = time.time()  # seconds since the epoch

    def update(self, value: float) -> None:
        """Add `value` to a counter, replace the value of anything else."""
        self.value = self.value + value if self.metric_type is MetricTypes.COUNTER else value

    def reset(self) -> None:
        """Start again from 0."""
        self.value = 0

    def to_dict(self) -> dict[str, Any]:
        """Return all there is to know, by the names TorchServe gives it."""
        return {
            "MetricName": self.name,
            "Value": self.value,
            "Unit": self.unit,
            "Dimensions": self.dimensions,
            "Timestamp": int(self.timestamp),
            "HostName": socket.gethostname(),
            "RequestId": self.request_id,
        }

    def __str__(self) -> str:
        """Return the line TorchServe's metrics logs are made of."""
        labels = ",".join(map(str, self.dimensions))
        tail = [f"hostname:{socket.gethostname()}", str(int(self.timestamp))]
        if self.request_id:
            tail.append(self.request_id)
        return f"{self.name}.{self.unit}:{self.value}|#{labels}|#{','.join(tail)}"
