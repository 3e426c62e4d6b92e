"""What handlers recorded in a batch becomes one bounded JSON list of `[name, unit, type, value, dimensions]`.

Counters of one name and one set of dimensions are added up, of gauges the last value counts, and a histogram
keeps each. Whose host it was and when is for the server to say, which believes none of this.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson

from wfserve.transport.message import MAX_METRICS_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable

log = logging.getLogger(__name__)
HISTOGRAM = "histogram"
COUNTER = "counter"


def encode_metrics(metrics: Iterable[Any], limit: int = MAX_METRICS_BYTES) -> bytes:
    """Return `ts.metrics.metric.Metric`s as JSON of at most `limit` bytes, empty if there are none.

    What is no finite number, and what is beyond the limit, is left out and named in the log.
    """
    entries = [entry for metric in metrics if (entry := _entry(metric)) is not None]
    encoded = [text for entry in _summed(entries) if (text := _encoded(entry))]
    fitting, size = 0, 1
    for text in encoded:
        size += len(text) + 1
        if size > limit:
            log.warning("%d of %d recorded metrics are dropped", len(encoded) - fitting, len(encoded))
            break
        fitting += 1
    return b"[" + b",".join(encoded[:fitting]) + b"]" if fitting else b""


def _entry(metric: Any) -> list[Any] | None:
    """Return one metric as plain values; a handler may have given anything for any of them."""
    try:
        value = float(metric.value)
        if value - value != 0:
            raise ValueError(f"{value} is not finite")
        labels = {str(label.name): str(label.value) for label in metric.dimensions}
        return [str(metric.name), str(metric.unit), str(metric.metric_type.value), value, labels]
    except Exception as problem:  # their own methods may raise anything
        log.warning("a metric is not recorded: %s", str(problem))
        return None


def _encoded(entry: list[Any]) -> bytes:
    try:
        return orjson.dumps(entry)
    except TypeError as problem:  # half a character
        log.warning("a metric is not recorded: %s", str(problem))
        return b""


def _summed(entries: Iterable[list[Any]]) -> list[list[Any]]:
    summed: list[list[Any]] = []
    known: dict[object, list[Any]] = {}
    for entry in entries:
        name, unit, kind, value, labels = entry
        same = known.setdefault((name, unit, kind, *labels.items()), entry)
        if same is entry or kind == HISTOGRAM:
            summed.append(entry)
        else:
            same[3] = same[3] + value if kind == COUNTER else value
    return summed
