"""What is written is what another implementation of the format reads."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from wfserve.measure.family import NO_LABELS, Family, Labels, lines, selected
from wfserve.measure.histogram import SIZES, Histogram


def text(family, names=()):
    return "".join(lines(family, names))


def parsed(family):
    (read,) = text_string_to_metric_families(text(family))
    return read


def a_histogram(*values):
    histogram = Histogram(SIZES)
    for value in values:
        histogram.observe(value)
    return histogram


@given(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.floats(allow_nan=False),
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20),
)
def test_values_labels_and_help_survive(label, value, documentation):
    labels = Labels(("b", label.replace("\r", "")), ("a", "x"))
    read = parsed(Family("some_metric", "gauge", documentation, [(labels, value)]))
    assert read.type == "gauge"
    (sample,) = read.samples
    assert sample.labels == {"a": "x", "b": label.replace("\r", "")}
    assert sample.value == value


def test_a_counter_keeps_its_name():
    written = text(Family("Requests2XX", "counter", "Responses", [(NO_LABELS, 3)]))
    assert written == "# HELP Requests2XX Responses\n# TYPE Requests2XX counter\nRequests2XX 3.0\n"


def test_line_breaks_do_not_end_a_line():
    family = Family("m", "gauge", "a\nb", [(Labels(("l", 'x\n"\\')), 1.0)])
    assert text(family).splitlines() == ["# HELP m a\\nb", "# TYPE m gauge", 'm{l="x\\n\\"\\\\"} 1.0']


@pytest.mark.parametrize("labels", [NO_LABELS, Labels(("node", "n"))])
def test_a_histogram_counts_up_to_each_bound(labels):
    read = parsed(Family("sizes", "histogram", "Sizes", [(labels, a_histogram(1, 2, 2, 1000))]))
    counts = {s.labels["le"]: s.value for s in read.samples if s.name == "sizes_bucket"}
    assert counts["1.0"] == 1
    assert counts["2.0"] == counts["256.0"] == 3
    assert counts["+Inf"] == 4
    assert {s.name: s.value for s in read.samples if "le" not in s.labels} == {
        "sizes_sum": 1005,
        "sizes_count": 4,
    }
    assert all({**s.labels, "le": ""} == {**dict(labels.pairs), "le": ""} for s in read.samples)


def test_names_select_families_or_lines_of_them():
    family = Family("sizes", "histogram", "Sizes", [(NO_LABELS, a_histogram(1))])
    assert selected(family, ())
    assert selected(family, {"sizes"})
    assert selected(family, {"sizes_count"})
    assert not selected(family, {"siz", "sizes_total"})
    assert text(family, {"sizes"}) == text(family)
    assert text(family, {"sizes_count"}).splitlines()[2:] == ["sizes_count 1.0"]


def test_numbers_without_end_are_written():
    assert parsed(Family("m", "gauge", "M", [(NO_LABELS, math.inf)])).samples[0].value == math.inf
    assert math.isnan(parsed(Family("m", "gauge", "M", [(NO_LABELS, math.nan)])).samples[0].value)
