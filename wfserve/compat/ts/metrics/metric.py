"""A metric is a number with a name, a unit and dimensions, recorded at a moment."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from .unit import Units

if TYPE_CHECKING:
    from collections.abc import Sequence

    from .dimension import Dimension


class Metric:
    """One recorded value; `update` adds to it."""

    def __init__(
        self,
        name: str,
        value: float,
        unit: str,
        dimensions: Sequence[Dimension],
        request_id: str | None = None,
        metric_method: str | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.unit = Units.spelled.get(unit, unit)
        self.dimensions = list(dimensions)
        self.request_id = request_id
        self.metric_method = metric_method
        self.timestamp = time.time()  # seconds since the epoch

    def update(self, value: float) -> None:
        """Add `value` to a counter, replace the value of anything else."""
        self.value = self.value + value if self.metric_method == "counter" else value

    def __str__(self) -> str:
        """Return the line TorchServe's metrics logs are made of."""
        labels = ",".join(map(str, self.dimensions))
        tail = [f"hostname:{socket.gethostname()}", f"timestamp:{int(self.timestamp)}"]
        if self.request_id is not None:
            tail.append(f"requestID:{self.request_id}")
        return f"{self.name}.{self.unit}:{self.value}|#{labels}|#{','.join(tail)}"
