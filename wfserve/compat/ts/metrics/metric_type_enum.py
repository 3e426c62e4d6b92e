"""A metric's type says how its values combine: counters add up, gauges replace, histograms keep each."""

from __future__ import annotations

import enum


class MetricTypes(enum.Enum):
    """The three types, by the names that metrics.yaml gives them."""

    COUNTER = "counter"
    GAUGE = "gauge"
    HISTOGRAM = "histogram"
