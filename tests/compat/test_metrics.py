"""What handlers record."""

from __future__ import annotations

import logging
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from pathlib import Path


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
        ("requests", 1, "Count", "id-0,id-1"),
        ("load", 5, "Milliseconds", "id-0"),
        ("load", 2, "Seconds", "id-1"),
        ("image", 3, "Kilobytes", "id-0"),
        ("used", 50.0, "Percent", "id-0,id-1"),
        ("broken", 1, "unit", None),
        ("score", 0.5, "points", "id-1"),
    ]


def test_a_counter_adds_up_and_a_time_is_replaced(store: Any) -> None:
    for value in (1, 2):
        store.add_counter("requests", value)
        store.add_time("load", value)
    assert [(each.name, each.value) for each in store.store] == [("requests", 3), ("load", 2)]


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
    assert record.getMessage().endswith(",id-0")


@pytest.mark.parametrize(("ids", "said"), [({}, None), (None, None), ("id-7", "id-7")])
def test_a_batch_may_have_no_ids_or_only_one(store: Any, ids: Any, said: str | None) -> None:
    store.set_request_ids(ids)
    store.add_counter("requests", 1, 0 if ids == "id-7" else None)
    assert recorded(store) == [("requests", 1, "Count", said)]


def test_what_belongs_to_no_batch_counts_as_an_error(store: Any) -> None:
    store.set_request_ids(None)
    store.add_counter("requests", 1)
    assert [str(label) for label in store.store[0].dimensions] == ["Level:Error"]


def test_an_error_is_of_its_own_level(store: Any) -> None:
    store.add_error("broken", 2)
    assert [str(label) for label in store.store[0].dimensions] == ["Level:Error"]


def test_a_label_given_is_not_given_again(store: Any) -> None:
    from ts.metrics.dimension import Dimension

    store.add_counter("requests", 1, dimensions=[Dimension("Level", "Mine")])
    assert [str(label) for label in store.store[0].dimensions] == ["Level:Mine", "ModelName:flow__node"]
    assert store.store[0].dimensions[0].to_dict() == {"Name": "Level", "Value": "Mine"}


def test_a_type_may_be_chosen_and_a_histogram_keeps_each_value(store: Any) -> None:
    from ts.metrics.metric_type_enum import MetricTypes

    for value in (1, 2):
        store.add_time("took", value, metric_type=MetricTypes.HISTOGRAM)
        store.add_percent("used", value, metric_type=MetricTypes.COUNTER)
        store.add_size("size", value)
        store.add_metric("score", value, "points")
    assert [(each.name, each.value, each.metric_type.value) for each in store.store] == [
        ("took", 1, "histogram"),
        ("used", 3, "counter"),
        ("size", 2, "gauge"),
        ("score", 3, "counter"),
        ("took", 2, "histogram"),
    ]


def test_a_definition_outlives_the_batch_and_its_values_do_not(store: Any) -> None:
    from ts.metrics.metric_type_enum import MetricTypes

    defined = store.add_metric_to_cache("calls", "count", ["Kind"], MetricTypes.COUNTER)
    defined.add_or_update(2, ["a"])
    assert recorded(store) == [("calls", 2, "Count", None)]
    assert [each.value for each in store.take()] == [2]
    assert store.store == store.take() == []
    assert store.get_metric("calls") is defined
    defined.add_or_update(3, ["a"], "id-2")
    assert recorded(store) == [("calls", 3, "Count", "id-2")]
    store.set_request_ids({0: "id-3"})
    store.add_counter("calls", 1, 0)
    assert recorded(store)[1:] == [("calls", 1, "Count", "id-3")]


@pytest.mark.parametrize(("value", "labels"), [(-1, ["a"]), (1, []), (1, ["a", "b"])])
def test_what_does_not_fit_is_logged_and_not_recorded(
    store: Any, caplog: pytest.LogCaptureFixture, value: float, labels: list[str]
) -> None:
    store.add_metric_to_cache("calls", "count", ["Kind"]).add_or_update(value, labels)
    assert store.store == []
    assert "calls is not recorded" in caplog.text


def test_other_dimensions_stay(store: Any) -> None:
    from ts.metrics.dimension import Dimension

    defined = store.add_metric_to_cache("calls", "count", ["Kind"])
    defined.update(1, None, [Dimension("Sort", "x")])
    defined.add_or_update(1, ["x"])
    assert [str(label) for label in store.store[0].dimensions] == ["Sort:x"]
    assert recorded(store) == [("calls", 2, "Count", None)]


def test_a_definition_without_a_store_logs(caplog: pytest.LogCaptureFixture) -> None:
    from ts.metrics.caching_metric import CachingMetric

    with caplog.at_level(logging.INFO):
        CachingMetric("calls", "count", ["Kind"]).add_or_update(1, ["a"])
    assert "[METRICS]calls.Count:1|#Kind:a|#hostname:" in caplog.text


def test_a_metric_starts_again_and_tells_all(store: Any) -> None:
    store.add_counter("requests", 3, 0)
    (metric,) = store.store
    metric.reset()
    metric.update(2)
    told = metric.to_dict()
    assert (told["MetricName"], told["Value"], told["Unit"], told["RequestId"]) == (
        "requests",
        2,
        "Count",
        "id-0",
    )


def test_no_such_metric_and_no_such_definition(store: Any) -> None:
    from ts.metrics.metric_cache_errors import MetricsCacheKeyError, MetricsCacheTypeError

    with pytest.raises(MetricsCacheKeyError, match="name 'calls' doesn't exist"):
        store.get_metric("calls")
    for unknown in ((1,), ("calls", "counter")):
        with pytest.raises(MetricsCacheTypeError, match="must be a"):
            store.get_metric(*unknown)
    for wrong in (
        (1, "count"),
        ("calls", None),
        ("calls", "count", [], "counter"),
        ("calls", "count", "Kind"),
        ("calls", "count", 1),
    ):
        with pytest.raises(MetricsCacheTypeError, match=r"(must|should) be a"):
            store.add_metric_to_cache(*wrong)
    assert store.cache_keys() == []


def yaml_store(tmp_path: Path, text: str) -> Any:
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    path = tmp_path / "metrics.yaml"
    path.write_text(textwrap.dedent(text))
    return MetricsCacheYamlImpl(str(path), "m")


def test_definitions_come_from_a_file(tmp_path: Path) -> None:
    from ts.metrics.metric_type_enum import MetricTypes

    store = yaml_store(
        tmp_path,
        """
        dimensions: [&name ModelName]
        model_metrics:
          gauge:
            - {name: RequestBatchSize, unit: count, dimensions: [*name]}
          counter:
            - {name: calls, unit: count, dimensions:}
          histogram:
        """,
    )
    store.initialize_cache()
    assert store.cache_keys() == ["gauge:RequestBatchSize", "counter:calls"]
    assert store.get_metric("RequestBatchSize", MetricTypes.GAUGE).dimension_names == ["ModelName"]
    assert store.get_metric("calls").dimension_names == []


def test_a_store_that_a_handler_makes_for_itself_logs(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = yaml_store(tmp_path, "model_metrics:")
    with caplog.at_level(logging.INFO):
        store.add_time("load", 2)
    assert "[METRICS]load.Milliseconds:2|#Level:Error|#hostname:" in caplog.text
    assert store.store == []


@pytest.mark.parametrize(
    ("text", "error", "match"),
    [
        ("a: 1", "Key", "'model_metrics' key not found"),
        ("- a", "Key", "'model_metrics' key not found"),
        ("model_metrics:", "Value", "Missing `model_metrics`"),
        ("model_metrics: {sum: [{}]}", "Key", "sum is not a metric type: counter, gauge, histogram"),
        ("model_metrics: {gauge: [{name: a, unit: b}]}", "Key", "not found in cache spec: 'dimensions'"),
        ("model_metrics: {gauge: [{name: a, unit: b, dimensions: c}]}", "Type", "should be a list"),
        ("model_metrics: {gauge: [{name: 1, unit: b, dimensions: []}]}", "Type", "must be a str"),
    ],
)
def test_a_file_that_defines_nothing_sensible(tmp_path: Path, text: str, error: str, match: str) -> None:
    from ts.metrics import metric_cache_errors

    store = yaml_store(tmp_path, text)
    with pytest.raises(getattr(metric_cache_errors, f"MetricsCache{error}Error"), match=match):
        store.initialize_cache()


def test_a_file_that_cannot_be_read(tmp_path: Path) -> None:
    from ts.metrics.metric_cache_errors import MetricsCacheIOError, MetricsCachePyYamlError
    from ts.metrics.metric_cache_yaml_impl import MetricsCacheYamlImpl

    with pytest.raises(MetricsCacheIOError, match="Error reading file"):
        MetricsCacheYamlImpl(str(tmp_path / "gone.yaml"))
    with pytest.raises(MetricsCachePyYamlError, match="Error parsing file"):
        yaml_store(tmp_path, "a: [")
