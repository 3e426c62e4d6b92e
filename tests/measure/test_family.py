"""What is written is what another implementation of the format reads."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from wfserve.measure.family import (
    NO_LABELS,
    Family,
    Labels,
    lasting,
    lines,
    selected,
    together,
    without,
)
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


def a_family(kind, *values, name="wfserve_x"):
    return Family(name, kind, "", [(Labels(("a", str(index))), value) for index, value in enumerate(values)])


def values_of(family):
    return [value for _, value in family.samples]


@given(st.lists(st.lists(st.integers(0, 1 << 40), max_size=5), min_size=1, max_size=5))
def test_counters_of_several_processes_are_added(parts):
    longest = max(map(len, parts))
    expected = [sum(part[index] for part in parts if index < len(part)) for index in range(longest)]
    (added,) = together([[a_family("counter", *part)] for part in parts], "wfserve_")
    assert values_of(added) == expected


def test_the_greatest_counts_of_some_gauges():
    parts = [[Family("wfserve_age", "gauge", "", [(NO_LABELS, value)])] for value in (2.0, 5.0, 3.0)]
    (greatest,) = together(parts, "wfserve_", {"wfserve_age"})
    assert greatest.samples == [(NO_LABELS, 5.0)]


def test_histograms_are_added_and_gauges_by_their_names():
    def parts():
        for value in (1, 2):
            yield [
                a_family("histogram", a_histogram(value, 3), name="h"),
                a_family("gauge", value, name="wfserve_queued"),
                a_family("gauge", value, name="CPUUtilization"),
            ]

    histogram, ours, theirs = together(parts(), "wfserve_")
    assert values_of(histogram)[0].counts == a_histogram(1, 2, 3, 3).counts
    assert values_of(ours) == [3]
    assert values_of(theirs) == [1]


def test_of_what_has_ended_counts_remain():
    parts = [[a_family("counter", 1, 2), a_family("gauge", 5, name="g")], [a_family("counter", 10)]]
    (left,) = lasting(parts)
    assert values_of(left) == [11, 2]


def test_samples_can_be_left_out():
    (left,) = without([a_family("counter", 1, 2, 3)], lambda labels: ("a", "1") in labels.pairs)
    assert values_of(left) == [1, 3]
