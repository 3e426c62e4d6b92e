"""What handlers record is shown with Prometheus's names or not at all: nothing of it is believed.

A worker reports, with each batch, a JSON list of `[name, unit, type, value, {label: value}]`. The first of a
name defines its type and labels, unless a metrics.yaml does; what contradicts them is dropped, and that is
logged once a name.
"""

from __future__ import annotations

import logging
import math
import re
from typing import TYPE_CHECKING, Any

import orjson

from wfserve.measure.definitions import EVERYTHING, TORCHSERVE, Definition
from wfserve.measure.family import KINDS, Family, Labels, sample_names
from wfserve.measure.histogram import DEFAULT, Histogram
from wfserve.measure.host import NAME

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wfserve.measure.family import Kind

log = logging.getLogger(__name__)
MAX_SERIES = 1000  # of one node
MAX_LABELS = 16
MAX_TEXT = 200  # characters of a name, a unit or a label
_RESERVED = re.compile(r"wfserve_|__|le$")
_TAKEN = frozenset(TORCHSERVE)


class Recorded:
    """The series that handlers of one node have recorded."""

    def __init__(self, name: str = "", definitions: Mapping[str, Definition] = EVERYTHING.model) -> None:
        """`definitions` are those of a metrics.yaml, by handlers' names for them; `name` is for the log."""
        self.name = name
        self._given = definitions
        self._metrics: dict[str, _Metric | None] = {}  # None: it cannot be shown
        self._series: dict[tuple[object, ...], _Series] = {}  # by name, type and labels, as recorded
        self._lines: set[str] = set()  # names that lines begin with
        self._complaints: set[str] = set()

    def __iter__(self) -> Iterator[_Metric]:
        return iter([metric for metric in self._metrics.values() if metric is not None])

    def take(self, raw: bytes) -> None:
        """Add what a worker reports of one batch."""
        try:
            entries = orjson.loads(raw)
        except orjson.JSONDecodeError:
            self._complain("", "what its workers report of metrics is not JSON")
            return
        for entry in entries if isinstance(entries, list) else ():
            try:
                name, unit, kind, value, labels = entry
                if not math.isfinite(value):
                    raise ValueError(value)
                key = name, kind, *labels.items()
                series = self._series.get(key) or self._open(key, name, unit, kind, labels)
                if series is not None and not series.add(value):
                    self._complain(name, "is a counter, which cannot fall")
            except (AttributeError, TypeError, ValueError):
                self._complain("", "what its workers report of metrics has another form")

    def _open(self, key: tuple[object, ...], name: Any, unit: Any, kind: Any, labels: Any) -> _Series | None:
        """Return the series that an entry is of, None if there is to be none.

        Raises what any misuse of a value raises if the entry has another form.
        """
        metric = self._metric(_text(name), _text(unit), _text(kind), tuple(labels))
        if metric is None:
            return None
        if name not in self._given and (metric.recorded_as != kind or metric.recorded_with != tuple(labels)):
            self._complain(name, f"is a {metric.recorded_as} with labels {metric.recorded_with}")
        elif len(labels) + 1 != len(metric.labels):
            self._complain(name, f"has the labels {metric.labels[:-1]}")
        elif len(self._series) >= MAX_SERIES:
            self._complain("", f"its handler records over {MAX_SERIES} series")
        else:
            self._series[key] = metric.open_series([str(each)[:MAX_TEXT] for each in labels.values()])
            return self._series[key]
        return None

    def _metric(self, name: str, unit: str, kind: str, labels: tuple[str, ...]) -> _Metric | None:
        if name not in self._metrics:
            if len(self._metrics) >= MAX_SERIES:
                self._complain("", f"its handler records over {MAX_SERIES} metrics")
                return None
            self._metrics[name] = self._define(name, unit, kind, labels)
        return self._metrics[name]

    def _define(self, name: str, unit: str, kind: str, labels: tuple[str, ...]) -> _Metric | None:
        """Return the metric of that name, None if there is to be none."""
        if name in self._given:
            definition = self._given[name]
        elif kind in KINDS:
            definition = Definition(KINDS[KINDS.index(kind)], unit, (*labels, "Hostname"))
        else:
            self._complain(name, f"is of no known type: {kind!r}")
            return None
        metric = _Metric(name, definition, kind, labels)
        lines = sample_names(metric.shown, metric.kind)
        if fault := metric.fault() or ("is in use" if self._lines.intersection(lines) else ""):
            self._complain(name, f"cannot be shown: {fault}")
            return None
        self._lines.update(lines)
        return metric

    def _complain(self, name: str, fault: str) -> None:
        if name not in self._complaints and len(self._complaints) < MAX_SERIES:
            self._complaints.add(name)
            log.warning("%s: metrics are dropped: %r %s", self.name, name, fault)


def _text(value: Any) -> str:
    if not isinstance(value, str) or len(value) > MAX_TEXT:
        raise TypeError("it is no short text")
    return value


class _Metric:
    """One name's series, by the values of its labels without the last, which is the host's name."""

    __slots__ = ("kind", "labels", "name", "recorded_as", "recorded_with", "series", "shown", "unit")

    def __init__(self, name: str, definition: Definition, kind: str, labels: tuple[str, ...]) -> None:
        self.name = name
        self.shown = _sound(name, r"[^a-zA-Z0-9_:]")
        self.kind: Kind = definition.kind
        self.unit = definition.unit
        self.labels = tuple(_sound(label, r"[^a-zA-Z0-9_]") for label in definition.labels)
        self.recorded_as = kind
        self.recorded_with = labels
        self.series: dict[tuple[str, ...], _Series] = {}

    def fault(self) -> str:
        """Return why it cannot be shown, empty if it can."""
        if not self.shown.strip("_"):
            return "it has no name"
        if _RESERVED.match(self.shown) or self.shown in _TAKEN:
            return "the server has one of this name"
        if len(self.labels) > MAX_LABELS or len(set(self.labels)) < len(self.labels):
            return "it has too many labels, or two of one name"
        if any(_RESERVED.match(each) or not 0 < len(each) <= MAX_TEXT for each in self.labels):
            return "a label's name is empty, too long or reserved"
        return ""

    def open_series(self, labels: list[str]) -> _Series:
        """Return the series with these values of labels, a new one if there is none."""
        values = (*labels, NAME)
        if values not in self.series:
            self.series[values] = _Series(self.kind, Labels(*zip(self.labels, values, strict=True)))
        return self.series[values]


class _Series:
    """The values of one metric under one set of labels, added up as its type wants."""

    __slots__ = ("_histogram", "_kind", "_number", "labels")

    def __init__(self, kind: Kind, labels: Labels) -> None:
        self.labels = labels
        self._kind = kind
        self._number = 0.0
        self._histogram = Histogram(DEFAULT) if kind == "histogram" else None

    @property
    def value(self) -> float | Histogram:
        """Return what is shown."""
        return self._number if self._histogram is None else self._histogram

    def add(self, value: float) -> bool:
        """Add a value; False if it would have a counter fall."""
        if self._histogram is not None:
            self._histogram.observe(value)
        elif self._kind == "gauge":
            self._number = value
        elif value >= 0:
            self._number += value
        else:
            return False
        return True


def _sound(name: str, wrong: str) -> str:
    sound = re.sub(wrong, "_", name)
    return f"_{sound}" if sound[:1].isdigit() else sound


def families(nodes: Iterable[Recorded]) -> list[Family]:
    """Join what all nodes recorded: counts add up, of gauges with the same labels the last node's is shown.

    The first node to name a metric says its type; others' metrics of another type are left out.
    """
    first: dict[str, _Metric] = {}
    joined: dict[str, dict[str, tuple[Labels, float | Histogram]]] = {}
    taken: dict[str, str] = {}  # what lines begin with → the metric they belong to
    for node in nodes:
        for metric in node:
            owner = first.setdefault(metric.shown, metric)
            names = sample_names(metric.shown, metric.kind)
            if owner.kind != metric.kind or any(
                taken.setdefault(n, metric.shown) != metric.shown for n in names
            ):
                continue
            samples = joined.setdefault(metric.shown, {})
            for series in metric.series.values():
                labels, value = series.labels, series.value
                if (before := samples.get(labels.text)) is not None:
                    value = _sum(metric.kind, before[1], value)
                samples[labels.text] = labels, value
    return [_family(first[name], samples.values()) for name, samples in joined.items()]


def _family(metric: _Metric, samples: Iterable[tuple[Labels, float | Histogram]]) -> Family:
    text = f"Recorded by handlers ({metric.unit})"
    return Family(metric.shown, metric.kind, text, samples, metric.unit)


def _sum(kind: Kind, one: float | Histogram, other: float | Histogram) -> float | Histogram:
    if isinstance(one, Histogram) and isinstance(other, Histogram):
        return one.plus(other)
    if kind == "counter" and not isinstance(one, Histogram) and not isinstance(other, Histogram):
        return one + other
    return other
