"""Lines of a counter add up to it; what has nothing new to say is silent."""

import logging
import re

import pytest

from wfserve.measure.family import Family, Labels
from wfserve.measure.histogram import SECONDS, Histogram
from wfserve.measure.host import NAME
from wfserve.measure.logged import MetricsLog

LABELS = Labels(("Level", "Host"), ("Hostname", NAME))


@pytest.fixture
def written(caplog):
    """The lines of one writing."""
    caplog.set_level(logging.INFO, "wfserve.metrics")
    log = MetricsLog()

    def write(kind, value, name="M"):
        caplog.clear()
        log.write([Family(name, kind, "", [(LABELS, value)], "Count")])
        return [record.getMessage() for record in caplog.records]

    return write


def test_a_line_has_torchserves_form(written):
    (line,) = written("gauge", 2.5)
    pattern = rf"M\.Count:2\.5\|#Level:Host\|#hostname:{re.escape(NAME)},timestamp:\d{{10}}"
    assert re.fullmatch(pattern, line)


def values(lines):
    return [float(re.search(r":([\d.]+)\|", line)[1]) for line in lines]


def test_lines_of_a_counter_add_up(written):
    assert values(written("counter", 2.0)) == [2]
    assert values(written("counter", 2.0)) == []
    assert values(written("counter", 5.0)) == [3]


def test_a_counter_that_began_anew_is_written_whole(written):
    written("counter", 5.0)
    assert values(written("counter", 1.0)) == [1]


def test_a_gauge_is_written_each_time(written):
    assert values(written("gauge", 1.0)) == values(written("gauge", 1.0)) == [1]


def test_a_histogram_is_the_mean_of_what_is_new(written):
    histogram = Histogram(SECONDS)
    assert written("histogram", histogram) == []
    histogram.observe(4)
    assert values(written("histogram", histogram)) == [4]
    histogram.observe(1)
    histogram.observe(2)
    assert values(written("histogram", histogram)) == [1.5]


def test_what_is_no_more_is_forgotten(written):
    written("counter", 5.0)
    written("counter", 1.0, name="Other")
    assert values(written("counter", 6.0)) == [6]
