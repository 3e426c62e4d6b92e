"""A MetricsLog writes families as lines of the form that TorchServe's metrics logs have.

    Requests2XX.Count:12.0|#Level:Host|#hostname:h,timestamp:1700000000

A line of a counter is what was added since its last one, so that the lines of a file can be added up; one of
a histogram is the mean of what came since. What has not changed has no line, gauges of the machine apart.
"""

from __future__ import annotations

import logging
import time
from typing import TYPE_CHECKING

from wfserve.measure.histogram import Histogram
from wfserve.measure.host import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable

    from wfserve.measure.family import Family, Kind, Labels

log = logging.getLogger("wfserve.metrics")
Total = tuple[float, int]  # the sum of all values, and how many they are


class MetricsLog:
    """Remembers what it has written."""

    def __init__(self) -> None:
        self._written: dict[tuple[str, str], Total] = {}

    def write(self, families: Iterable[Family]) -> None:
        """Log a line for each series with news."""
        seen: dict[tuple[str, str], Total] = {}
        for family in families:
            for labels, value in family.samples:
                key = family.name, labels.text
                seen[key] = (value.sum, value.count) if isinstance(value, Histogram) else (value, 1)
                news = _news(family.kind, self._written.get(key), seen[key])
                if news is not None:
                    log.info("%s", _line(family, labels, news))
        self._written = seen  # what is no more is forgotten


def _news(kind: Kind, before: Total | None, now: Total) -> float | None:
    if kind == "gauge":
        return now[0]
    then, count = before if before is not None and before[0] <= now[0] else (0.0, 0)
    if kind == "histogram":
        return (now[0] - then) / (now[1] - count) if now[1] > count else None
    return now[0] - then if now[0] > then else None


def _line(family: Family, labels: Labels, value: float) -> str:
    shown = ",".join(f"{name}:{text}" for name, text in labels.pairs if text != NAME)
    return f"{family.name}.{family.unit}:{value}|#{shown}|#hostname:{NAME},timestamp:{int(time.time())}"
