"""Whatever a worker reports, what is shown of it can be read by Prometheus, and is bounded."""

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client.parser import text_string_to_metric_families

from wfserve.measure import recorded
from wfserve.measure.definitions import Definition
from wfserve.measure.family import lines
from wfserve.measure.recorded import MAX_SERIES, MAX_TEXT, Recorded, families

MODEL = {"ModelName": "w__m", "Level": "Model"}


def entry(name="Hits", value=1.0, kind="counter", labels=MODEL, unit="Count"):
    return [name, unit, kind, value, labels]


def node(*entries, **definitions):
    made = Recorded("w__m", definitions)
    made.take(orjson.dumps(entries))
    return made


def shown(*nodes):
    """Every sample: (name, labels without the host's name) → value."""
    text = "".join(line for family in families(nodes) for line in lines(family))
    return {
        (
            sample.name,
            *(value for label, value in sorted(sample.labels.items()) if label != "Hostname"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_counters_add_up_and_gauges_are_replaced():
    made = node(entry(value=2), entry("Size", 5, "gauge"))
    made.take(orjson.dumps([entry(value=3), entry("Size", 4, "gauge")]))
    assert shown(made) == {("Hits_total", "Model", "w__m"): 5, ("Size", "Model", "w__m"): 4}


def test_a_counter_does_not_fall(caplog):
    made = node(entry(value=3), entry(value=-1), entry(value=-1))
    assert shown(made) == {("Hits_total", "Model", "w__m"): 3}
    assert len(caplog.records) == 1


def test_histograms_count_values():
    samples = shown(node(entry("T", 0.3, "histogram"), entry("T", 20, "histogram")))
    assert samples["T_count", "Model", "w__m"] == 2
    assert samples["T_sum", "Model", "w__m"] == 20.3
    assert samples["T_bucket", "Model", "w__m", "0.25"] == 0
    assert samples["T_bucket", "Model", "w__m", "0.5"] == 1


def test_the_hostname_is_ours():
    (family,) = families([node(entry())])
    ((labels, _),) = family.samples
    assert labels.pairs[-1] == ("Hostname", recorded.NAME)
    assert not families([node(entry(labels={"Hostname": "elsewhere"}))])


def test_names_become_those_of_prometheus():
    samples = shown(node(entry("my-percent x", 50, "gauge", {"zone id": "eu"}), entry("9lives", labels={})))
    assert samples == {("my_percent_x", "eu"): 50, ("_9lives_total",): 1}


@pytest.mark.parametrize(
    "wrong",
    [
        entry(""),
        entry("¡!"),
        entry("x" * (MAX_TEXT + 1)),
        entry("wfserve_node_queued"),
        entry("__name__"),
        entry("QueueTime"),
        entry(kind="summary"),
        entry(value="1"),
        entry(value=None),
        entry(labels={"__name__": "x"}),
        entry(labels={"le": "1"}),
        entry(labels={"": "x"}),
        entry(labels={"a-b": "x", "a_b": "y"}),
        entry(labels={f"l{i}": "x" for i in range(100)}),
        entry(labels=[]),
        [],
        {},
        None,
        "text",
    ],
)
def test_what_cannot_be_shown_is_dropped_and_the_rest_is_not(wrong, caplog):
    made = node(wrong, wrong, entry("Good"))
    assert shown(made) == {("Good_total", "Model", "w__m"): 1}
    assert len(caplog.records) == 1


@pytest.mark.parametrize("raw", [b"", b"\xff", b"[", b"1", b"{}", b"[[]]", b"[" * 10_000])
def test_what_is_no_report_is_dropped(raw):
    made = Recorded("w__m")
    made.take(raw)
    assert not families([made])


def test_what_contradicts_the_first_of_its_name_is_dropped(caplog):
    made = node(entry(), entry(kind="gauge", value=9), entry(labels={"other": "x"}), entry())
    assert shown(made) == {("Hits_total", "Model", "w__m"): 2}
    assert len(caplog.records) == 1
    assert "'Hits'" in caplog.text


def test_two_names_that_become_one_are_not_mixed():
    assert shown(node(entry("a-b"), entry("a_b", 5))) == {("a_b_total", "Model", "w__m"): 1}
    made = node(entry("T_count", kind="gauge"), entry("T", 5, "histogram"))
    assert shown(made) == {("T_count", "Model", "w__m"): 1}


def test_series_are_bounded(caplog):
    made = node(*(entry(labels={"user": str(i)}) for i in range(MAX_SERIES + 10)))
    assert len(shown(made)) == MAX_SERIES
    made.take(orjson.dumps([entry(labels={"user": "0"}), entry("Other")]))
    assert shown(made)["Hits_total", "0"] == 2
    assert len(shown(made)) == MAX_SERIES
    assert len(caplog.records) == 1


def test_names_are_bounded(caplog):
    made = node(*(entry(f"wfserve_{i}") for i in range(MAX_SERIES + 10)))
    assert len(made._metrics) == MAX_SERIES
    assert len(caplog.records) <= MAX_SERIES


def test_long_values_of_labels_are_cut():
    assert shown(node(entry(labels={"user": "x" * 60_000}))) == {("Hits_total", "x" * MAX_TEXT): 1}


def test_a_definition_says_type_unit_and_labels():
    definition = Definition("gauge", "Furlongs", ("Zone", "Hostname"))
    made = node(entry(labels={"z": "eu"}), entry(value=7, labels={"z": "us"}), Hits=definition)
    assert shown(made) == {("Hits", "eu"): 1, ("Hits", "us"): 7}
    assert "Furlongs" in families([made])[0].help


def test_values_that_do_not_fit_the_labels_of_a_definition_are_dropped(caplog):
    definition = Definition("counter", "Count", ("Zone", "Hostname"))
    assert not shown(node(entry(), Hits=definition))
    assert len(caplog.records) == 1


def test_what_is_not_defined_is_shown_all_the_same():
    assert shown(node(entry(), Misses=Definition("counter", "Count", ("Hostname",))))


def test_nodes_are_shown_together():
    one, other = node(entry()), node(entry(labels=MODEL | {"ModelName": "w__n"}))
    assert len(families([one, other])) == 1
    assert shown(one, other) == {("Hits_total", "Model", "w__m"): 1, ("Hits_total", "Model", "w__n"): 1}


def test_what_two_nodes_say_with_the_same_labels_is_one_series():
    def says(kind, value):
        return node(entry("M", value, kind, {}))

    assert shown(says("counter", 2), says("counter", 3)) == {("M_total",): 5}
    assert shown(says("gauge", 2), says("gauge", 3)) == {("M",): 3}
    assert shown(says("histogram", 2), says("histogram", 3))["M_count",] == 2


def test_the_first_node_says_the_type():
    assert shown(node(entry("M", kind="gauge")), node(entry("M", 9, "histogram"))) == {
        ("M", "Model", "w__m"): 1
    }
    assert shown(node(entry("T", 9, "histogram", {})), node(entry("T_sum", 1, "gauge", {})))["T_sum",] == 9


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"]), max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner)
    ),
    max_leaves=5,
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]), max_size=6)
ENTRIES = st.tuples(
    TEXTS | st.sampled_from(["T", "T_count", "a-b"]),
    TEXTS,
    st.sampled_from(["counter", "gauge", "histogram", "?"]),
    VALUES,
    st.dictionaries(TEXTS, VALUES, max_size=3),
)


@given(st.lists(st.lists(ENTRIES | VALUES, max_size=8), max_size=3))
def test_whatever_is_reported_prometheus_can_read(reports):
    nodes = [node(*entries) for entries in reports]
    samples = [
        (sample.name, *sorted(sample.labels.items()))
        for family in text_string_to_metric_families(
            "".join(line for f in families(nodes) for line in lines(f))
        )
        for sample in family.samples
    ]
    assert len(samples) == len(set(samples))
