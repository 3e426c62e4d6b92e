"""What handlers record."""

from __future__ import annotations

import logging
from typing import Any

import pytest

from wfserve.child.surroundings import COMPAT


@pytest.fixture(autouse=True)
def _compat(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(COMPAT)


@pytest.fixture
def store() -> Any:
    from ts.metrics.metrics_store import MetricsStore

    return MetricsStore({0: "id-0", 1: "id-1"}, "flow__node")


def recorded(store: Any) -> list[tuple[str, float, str, str | None]]:
    return [(metric.name, metric.value, metric.unit, metric.request_id) for metric in store.store]


def test_every_kind(store: Any) -> None:
    store.add_counter("requests", 1)
    store.add_time("load", 5, 0)
    store.add_time("load", 2, 1, "s")
    store.add_size("image", 3, 0, "kB")
    store.add_percent("used", 50.0)
    store.add_error("broken", "what broke")
    store.add_metric("score", 0.5, "points", 1)
    assert recorded(store) == [
        ("requests", 1, "Count", None),
        ("load", 5, "Milliseconds", "id-0"),
        ("load", 2, "Seconds", "id-1"),
        ("image", 3, "Kilobytes", "id-0"),
        ("used", 50.0, "Percent", None),
        ("broken", 1, "unit", None),
        ("score", 0.5, "points", "id-1"),
    ]


def test_a_counter_adds_up_and_a_time_is_replaced(store: Any) -> None:
    for value in (1, 2):
        store.add_counter("requests", value)
        store.add_time("load", value)
    assert recorded(store) == [("requests", 3, "Count", None), ("load", 2, "Milliseconds", None)]


def test_dimensions_tell_metrics_apart_and_the_model_is_always_one(store: Any) -> None:
    from ts.metrics.dimension import Dimension

    store.add_counter("requests", 1, dimensions=[Dimension("kind", "a")])
    store.add_counter("requests", 1, dimensions=[Dimension("kind", "b")])
    assert [[str(label) for label in metric.dimensions] for metric in store.store] == [
        ["kind:a", "ModelName:flow__node", "Level:Model"],
        ["kind:b", "ModelName:flow__node", "Level:Model"],
    ]


@pytest.mark.parametrize(("method", "unit"), [("add_time", "h"), ("add_size", "ms")])
def test_a_unit_that_does_not_fit_is_refused(store: Any, method: str, unit: str) -> None:
    with pytest.raises(ValueError, match=f"not {unit}"):
        getattr(store, method)("x", 1, None, unit)


def test_emitted_metrics_are_lines_of_the_log(store: Any, caplog: pytest.LogCaptureFixture) -> None:
    from ts.service import emit_metrics

    store.add_time("HandlerTime", 1.5, 0)
    with caplog.at_level(logging.INFO):
        emit_metrics(store.store)
    (record,) = caplog.records
    assert record.getMessage().startswith(
        "[METRICS]HandlerTime.Milliseconds:1.5|#ModelName:flow__node,Level:Model|#hostname:"
    )
    assert record.getMessage().endswith(",requestID:id-0")
