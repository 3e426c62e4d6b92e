"""A histogram puts every value under the first bound that is not below it."""

from bisect import bisect_left

from hypothesis import given
from hypothesis import strategies as st

from wfserve.measure.histogram import SECONDS, Histogram

VALUES = st.lists(st.one_of(st.floats(0, 20), st.sampled_from(SECONDS)))


def filled(values):
    histogram = Histogram(SECONDS)
    for value in values:
        histogram.observe(value)
    return histogram


@given(VALUES)
def test_counts_up_to_a_bound_are_those_of_the_values_up_to_it(values):
    histogram = filled(values)
    for place, bound in enumerate(SECONDS):
        assert sum(histogram.counts[: place + 1]) == sum(value <= bound for value in values)
    assert histogram.count == len(values)
    assert histogram.sum == sum(values)


@given(VALUES, VALUES)
def test_a_sum_has_the_values_of_both(one, other):
    both = filled(one).plus(filled(other))
    assert both.counts == filled([*one, *other]).counts
    assert both.sum == sum(one) + sum(other)


def test_the_last_count_is_for_what_is_above_all_bounds():
    assert filled([1e9]).counts[-1] == 1
    assert bisect_left(SECONDS, 1e9) == len(SECONDS)
