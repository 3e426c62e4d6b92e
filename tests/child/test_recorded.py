"""Whatever a handler records, what leaves the worker is a bounded list of plain values, or nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.child.recorded import encode_metrics

if TYPE_CHECKING:
    from collections.abc import Callable

Entry = list[Any]


@pytest.fixture
def recorded() -> Callable[[Callable[[Any], None]], list[Entry]]:
    """Have a store record, and return what would be sent."""
    from ts.metrics.metrics_store import MetricsStore

    def send(record: Callable[[Any], None]) -> list[Entry]:
        store = MetricsStore({0: "id-0", 1: "id-1"}, "w__n")
        record(store)
        entries: list[Entry] = orjson.loads(encode_metrics(store.take()) or b"[]")
        return entries

    return send


LABELS = {"ModelName": "w__n", "Level": "Model"}


def test_nothing_is_nothing() -> None:
    assert encode_metrics([]) == b""


def test_requests_of_a_batch_are_summed_as_their_type_allows(recorded: Any) -> None:
    from ts.metrics.metric_type_enum import MetricTypes

    def record(store: Any) -> None:
        for index in (0, 1):
            store.add_counter("seen", index + 1, index)
            store.add_time("took", index + 1, index)
            store.add_time("spread", index + 1, index, "s", None, MetricTypes.HISTOGRAM)

    assert recorded(record) == [
        ["seen", "Count", "counter", 3.0, LABELS],
        ["took", "Milliseconds", "gauge", 2.0, LABELS],
        ["spread", "Seconds", "histogram", 1.0, LABELS],
        ["spread", "Seconds", "histogram", 2.0, LABELS],
    ]


def test_other_labels_are_another_metric(recorded: Any) -> None:
    from ts.metrics.dimension import Dimension

    def record(store: Any) -> None:
        for kind in "ab":
            store.add_counter("seen", 1, None, [Dimension("kind", kind)])

    assert [entry[4]["kind"] for entry in recorded(record)] == ["a", "b"]


class Hostile:
    def __float__(self) -> float:
        raise RuntimeError("no")

    __str__ = __float__  # type: ignore[assignment]


@pytest.mark.parametrize("value", [float("nan"), float("inf"), "no number", None, Hostile(), "\ud800"])
def test_what_is_no_number_is_left_out(recorded: Any, caplog: pytest.LogCaptureFixture, value: Any) -> None:
    def record(store: Any) -> None:
        store.add_time("took", value)
        store.add_time("other", 1)

    assert [entry[0] for entry in recorded(record)] == ["other"]
    assert "a metric is not recorded" in caplog.text


def test_a_name_that_is_no_text_is_left_out(recorded: Any) -> None:
    assert recorded(lambda store: store.add_counter("\ud800", 1)) == []


@given(st.lists(st.text("abé", max_size=20), max_size=8), st.integers(0, 300))
def test_it_never_exceeds_its_limit(names: list[str], limit: int) -> None:
    from ts.metrics.metric import Metric

    metrics = [Metric(f"{number}{name}", 1, "count", []) for number, name in enumerate(names)]
    encoded = encode_metrics(metrics, limit)
    assert len(encoded) <= limit
    assert len(orjson.loads(encoded or b"[]")) <= len(names)
    if len(encode_metrics(metrics)) <= limit:
        assert len(orjson.loads(encoded or b"[]")) == len(names)
