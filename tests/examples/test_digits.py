"""The example's archives hold what they should; its handlers, found as a worker finds them, read digits."""

import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageOps

from wfserve.archive.mar import open_model
from wfserve.archive.war import open_workflow
from wfserve.child.context import Job
from wfserve.child.handler import Handler
from wfserve.child.headers import Headers
from wfserve.child.spec import WorkerSpec
from wfserve.child.surroundings import COMPAT
from wfserve.dag.check import check_file

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "digits"
SAMPLES = sorted(EXAMPLE.glob("digit-*.png"))
NETWORKS = ("cnn", "mlp")


@pytest.fixture(scope="module")
def store(tmp_path_factory):
    """The three archives, as the script builds them."""
    directory = tmp_path_factory.mktemp("store")
    subprocess.run(
        [sys.executable, EXAMPLE / "build.py", "--out", directory], check=True, capture_output=True
    )
    return directory


@pytest.fixture(scope="module")
def nodes(store, tmp_path_factory):
    """Each node's entry, loaded from the extracted archive."""
    into = tmp_path_factory.mktemp("extracted")
    before = set(sys.modules)
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(COMPAT)
        workflow = open_workflow(store / "digits.war", into / "workflow")
        patch.syspath_prepend(workflow.directory)
        entries = {
            name: load(f"{workflow.handler}:{name}", workflow.directory) for name in ("prepare", "vote")
        }
        for name in NETWORKS:
            model = open_model(store / f"digits_{name}.mar", into / name)
            patch.syspath_prepend(model.directory)
            entries[name] = load(model.handler, model.directory, model.manifest)
        yield entries
    for name in set(sys.modules) - before:
        if str(into) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


def load(handler, directory, manifest=None):
    """The node as a function of rows: each becomes the value that the handler returns, or a fault."""
    loaded = Handler(WorkerSpec("node", handler, str(directory), manifest is None, manifest))

    def run(rows):
        jobs = [Job(f"request-{n}", Headers(b"[]"), row) for n, row in enumerate(rows)]
        parts = [[job] for job in jobs] if manifest is None else [jobs]
        answers = [answer for part in parts for answer in loaded.call(part)]
        return [getattr(answer, "value", answer) for answer in answers]

    return run


def classify(nodes, *pictures):
    """Send pictures through the workflow, both networks getting them as one batch."""
    pixels = nodes["prepare"]([{"body": bytearray(picture)} for picture in pictures])
    answers = {name: nodes[name]([{"body": bytearray(each)} for each in pixels]) for name in NETWORKS}
    rows = [{name: as_bytes(answers[name][n]) for name in NETWORKS} for n in range(len(pixels))]
    return nodes["vote"](rows)


def as_bytes(value):
    """What the next node gets of a value that is JSON."""
    return bytearray(json.dumps(value, indent=2).encode())


def digit_of(sample):
    return int(sample.stem.removeprefix("digit-"))


def encoded(image, kind="PNG"):
    stream = io.BytesIO()
    image.save(stream, kind)
    return stream.getvalue()


def test_the_archives_are_sound_and_complete(store):
    assert [
        str(finding) for name in ("digits.war", "digits_cnn.mar") for finding in check_file(store / name)
    ] == []
    contents = {path.name: set(zipfile.ZipFile(path).namelist()) for path in store.iterdir()}
    assert contents == {
        "digits.war": {"WAR-INF/MANIFEST.json", "digits.yaml", "digits_workflow.py", "picture.py"},
        "digits_cnn.mar": {"MAR-INF/MANIFEST.json", "cnn.py", "cnn.pt", "digit_handler.py"},
        "digits_mlp.mar": {"MAR-INF/MANIFEST.json", "mlp.py", "mlp.pt", "digit_handler.py"},
    }


def test_the_samples_are_read_as_what_their_names_say(nodes):
    assert len(SAMPLES) >= 3
    answers = classify(nodes, *(sample.read_bytes() for sample in SAMPLES))
    for sample, answer in zip(SAMPLES, answers, strict=True):
        digit = digit_of(sample)
        assert answer["digit"] == digit
        assert answer["votes"] == {"cnn": digit, "mlp": digit}
        assert 0.8 < answer["confidence"] <= 1


@pytest.mark.parametrize(
    "change",
    [
        lambda image: encoded(ImageOps.invert(image)),
        lambda image: encoded(image.resize((1000, 1000))),
        lambda image: encoded(image.resize((40, 40))),
        lambda image: encoded(ImageOps.expand(image, 150, fill=245)),
        lambda image: encoded(image.convert("RGB"), "JPEG"),
        lambda image: encoded(Image.merge("LA", [Image.new("L", image.size), ImageOps.invert(image)])),
    ],
    ids=["light on dark", "large", "small", "far away", "JPEG", "transparent paper"],
)
def test_a_picture_may_look_different(nodes, change):
    seven = Image.open(EXAMPLE / "digit-7.png")
    assert classify(nodes, change(seven))[0]["digit"] == 7


def test_a_picture_may_be_the_field_of_a_form(nodes):
    picture = bytearray((EXAMPLE / "digit-7.png").read_bytes())
    assert nodes["prepare"]([{"data": picture}]) == nodes["prepare"]([{"body": picture}])


def test_blank_paper_is_no_fault(nodes):
    assert nodes["prepare"]([{"body": encoded(Image.new("L", (20, 30), 255))}]) == [bytes(64)]


@pytest.mark.parametrize(
    "body", [b"", b"hello", "text", {"a": 1}, (EXAMPLE / "digit-7.png").read_bytes()[:500]]
)
def test_what_is_no_picture_is_refused(nodes, body):
    assert refusal(nodes, body) == "The picture cannot be read: it is no PNG or JPEG file."


def test_a_picture_that_is_too_large_is_refused(nodes):
    assert "larger than 4096" in refusal(nodes, encoded(Image.new("1", (4097, 1))))


def refusal(nodes, body):
    (fault,) = nodes["prepare"]([{"body": body}])
    assert (fault.code, fault.kind) == (400, "PredictionException")
    return fault.message


@given(st.integers(8, 600), st.binary(min_size=1, max_size=8))
def test_a_damaged_picture_is_read_or_refused(nodes, position, damage):
    picture = bytearray((EXAMPLE / "digit-7.png").read_bytes())
    picture[position : position + len(damage)] = damage
    (answer,) = nodes["prepare"]([{"body": picture}])
    if isinstance(answer, bytes):
        assert len(answer) == 64
        assert max(answer) <= 16
    else:
        assert answer.code == 400


def test_the_samples_are_made_by_their_script(tmp_path):
    subprocess.run([sys.executable, EXAMPLE / "make_sample.py", "--out", tmp_path], check=True)
    assert {path.name for path in tmp_path.iterdir()} == {path.name for path in SAMPLES}
    for sample in SAMPLES:
        assert Image.open(tmp_path / sample.name).tobytes() == Image.open(sample).tobytes()
