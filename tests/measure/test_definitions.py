"""A metrics.yaml selects, names labels and types; a broken one costs nothing but itself."""

import textwrap

import pytest

from wfserve.measure.definitions import EVERYTHING, TORCHSERVE, Definition, load


@pytest.fixture
def read(tmp_path):
    def read(text):
        path = tmp_path / "metrics.yaml"
        path.write_text(textwrap.dedent(text))
        return load(path)

    return read


def test_without_a_file_there_is_everything():
    assert load(None) == EVERYTHING
    assert TORCHSERVE["Requests2XX"] == Definition("counter", "Count", ("Level", "Hostname"))


def test_a_file_selects_and_names_labels(read):
    found = read("""
        dimensions:
          - &host "Machine"
        ts_metrics:
          counter:
            - {name: Requests2XX, unit: Answers, dimensions: [Kind, *host]}
          gauge:
            - name: QueueTime
              unit: Milliseconds
              dimensions: [Level, *host]
        model_metrics:
          histogram:
            - {name: HandlerTime, unit: ms, dimensions: [ModelName, Level]}
          counter:
            - {name: Calls, unit: Count, dimensions: []}
    """)
    assert found.server == {
        "Requests2XX": Definition("counter", "Answers", ("Kind", "Machine")),
        "QueueTime": Definition("gauge", "Milliseconds", ("Level", "Machine")),
    }
    assert found.model == {
        "HandlerTime": Definition("histogram", "ms", ("ModelName", "Level", "Hostname")),
        "Calls": Definition("counter", "Count", ("Hostname",)),
    }


def test_prediction_time_stands_with_what_handlers_record(read):
    found = read("model_metrics: {gauge: [{name: PredictionTime, unit: ms, dimensions: [Who, Level]}]}")
    assert found.server == {"PredictionTime": Definition("gauge", "ms", ("Who", "Level", "Hostname"))}
    assert not found.model


@pytest.mark.parametrize(
    "entry",
    [
        "{name: QueueTime, unit: ms, dimensions: [Level]}",
        "{name: Requests2XX, unit: Count, dimensions: [Level, Hostname]}",
        "{name: Unheard, unit: Count, dimensions: []}",
        "{name: QueueTime, dimensions: [Level, Hostname]}",
        "{name: QueueTime, unit: ms, dimensions: 5}",
        "QueueTime",
    ],
)
def test_what_cannot_be_honoured_is_named_and_left_out(read, entry, caplog):
    found = read(f"""
        ts_metrics:
          gauge:
            - {entry}
            - {{name: WorkerThreadTime, unit: ms, dimensions: [Level, Hostname]}}
    """)
    assert list(found.server) == ["WorkerThreadTime"]
    assert len(caplog.records) == 1


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "a: [",
        "!!python/object/apply:os.getpid []",
        "a: &a [x]\nb: [*a, *a]",
        "[" * 20_000,
        "a: " + "x" * (2 << 20),
        "\0",
    ],
    ids=["empty", "list", "unfinished", "object", "alias", "deep", "long", "binary"],
)
def test_a_file_that_cannot_be_read_is_named_and_ignored(read, text, caplog):
    assert read(text) == EVERYTHING
    assert len(caplog.records) == 1


def test_a_file_that_is_not_there_is_named_and_ignored(tmp_path, caplog):
    assert load(tmp_path / "absent.yaml") == EVERYTHING
    assert "absent.yaml" in caplog.text


@pytest.mark.parametrize("text", ["ts_metrics: 5", "ts_metrics: {counter: 5}", "model_metrics: [x]"])
def test_sections_of_another_form_are_empty(read, text):
    assert read(text) == ({}, {})
