"""What is written is read again as it was; whatever else is read is a workflow or refused."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.state.documents import DocumentError, decode, encode, from_document, to_document
from wfserve.state.records import Content, LiveSettings, Sample, Traffic, Version, Workflow

CONTENTS = st.builds(
    Content,
    st.binary(min_size=32, max_size=32).map(bytes.hex),
    st.integers(0, (1 << 63) - 1),
)
VERSIONS = st.lists(st.sampled_from(["1.0", "1.10", "2.0", "3"]), min_size=1, unique=True)
SECONDS = st.none() | st.floats(0, 1e6, exclude_min=True)
NODES = st.text(st.characters(codec="utf-8"), max_size=3)
SETTINGS = st.builds(
    LiveSettings,
    max_workers=st.none() | st.integers(0, 1024),
    batch_size=st.none() | st.integers(1, 9),
    timeout_ms=st.none() | st.integers(1, 2**31 - 1),
)


@st.composite
def workflows(draw):
    names = draw(VERSIONS)
    versions = [
        Version(
            name,
            draw(CONTENTS),
            draw(st.text(st.characters(codec="utf-8"))),
            draw(st.booleans()),
            draw(SECONDS),
            draw(SECONDS),
            draw(st.dictionaries(NODES, CONTENTS, max_size=2)),
            draw(st.dictionaries(NODES, SETTINGS, max_size=2)),
        )
        for name in names
    ]
    default, *others = draw(st.permutations(names))
    weights = draw(st.dictionaries(st.sampled_from(names), st.floats(0.1, 100)))
    shadow = draw(st.sampled_from([None, *(each for each in others if each not in weights)]))
    traffic = draw(st.none() | st.just(Traffic(weights, draw(st.sampled_from([None, "x-user"])), shadow)))
    previous = draw(st.none() | st.sampled_from(names))
    sample = draw(st.none() | st.builds(Sample, CONTENTS, st.just({"accept": "*/*"})))
    return Workflow("w", default, tuple(versions), traffic, previous, sample, draw(st.booleans()))


@given(workflows())
def test_there_and_back(workflow):
    text = encode(to_document(workflow))
    again = from_document(decode(text))
    assert again == workflow
    assert encode(to_document(again)) == text


def test_equal_workflows_have_equal_documents():
    """Whole numbers of seconds and weights are equal to fractions."""
    one, other = (
        Workflow(
            *("w", "1.0", (Version("1.0", Content("0" * 64, 1), "w.war", True, number, number),)),
            Traffic({"1.0": number}),
        )
        for number in (1, 1.0)
    )
    assert one == other
    assert encode(to_document(one)) == encode(to_document(other))


FULL = to_document(
    Workflow(
        "w",
        "1.0",
        (
            Version(
                *("1.0", Content("0" * 64, 1), "w.war", True, 1.0, 2.0),
                {"m": Content("1" * 64, 2)},
                {"m": LiveSettings(timeout_ms=5)},
            ),
            Version("2.0", Content("0" * 64, 1), "w.war"),
        ),
        Traffic({"1.0": 1.0}, "x-user", "2.0"),
        sample=Sample(Content("2" * 64, 3), {"accept": "text/plain"}),
    )
)
SOMETHING = st.sampled_from([None, True, 0, -1, 1.5, "", "1.0", "0" * 64, [], [None], {}, {"m": None}, 2**70])


def places(value, path=()):
    """Every place in a document, by the keys that lead there."""
    yield path
    pairs = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, below in pairs:
        yield from places(below, (*path, key))


@given(st.sampled_from([path for path in places(FULL) if path]), SOMETHING)
def test_a_document_with_anything_anywhere_is_a_workflow_or_refused(path, value):
    document = copy.deepcopy(FULL)
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    try:
        workflow = from_document(document)
    except DocumentError:
        return
    assert from_document(to_document(workflow)) == workflow


@pytest.mark.parametrize("value", [None, [], "w", {}, {"name": "w", "default": "1.0", "versions": []}])
def test_no_workflow(value):
    with pytest.raises(DocumentError):
        from_document(value)


def test_an_unknown_setting_is_not_lost_without_a_word():
    document = copy.deepcopy(FULL)
    document["versions"][0]["settings"]["m"]["colour"] = 1
    with pytest.raises(DocumentError, match="'colour' is no setting"):
        from_document(document)


@pytest.mark.parametrize("text", ["", "{", "NaN", b"\xff", '"\ud800"'.encode("utf-8", "surrogatepass")])
def test_no_json(text):
    with pytest.raises(DocumentError, match="not JSON"):
        decode(text)
