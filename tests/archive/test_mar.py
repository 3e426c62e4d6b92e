"""A model archive is opened as a whole, a directory in place, or it is refused with nothing left."""

import json
import logging
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest

from wfserve.archive.mar import open_model
from wfserve.errors import InvalidModelError

MODEL = {"modelName": "m", "modelVersion": "2.0", "handler": "h.py:entry"}
MANIFEST = {
    "createdOn": "01/01/2024 00:00:00",
    "archiverVersion": "0.12.0",
    "runtime": "python",
    "model": MODEL,
}


def directory(root: Path, manifest: object = MANIFEST, **files: str | bytes) -> Path:
    """Write an unpacked archive; `files` name their suffix after two underscores."""
    (root / "MAR-INF").mkdir(parents=True)
    if manifest is not None:
        content = manifest if isinstance(manifest, bytes) else json.dumps(manifest).encode()
        (root / "MAR-INF/MANIFEST.json").write_bytes(content)
    for name, text in files.items():
        (root / name.replace("__", ".")).write_bytes(text if isinstance(text, bytes) else text.encode())
    return root


def zipped(root: Path) -> Path:
    """Return a `.mar` with the files of `root`."""
    path = root.with_suffix(".mar")
    with zipfile.ZipFile(path, "w") as archive:
        for file in root.rglob("*"):
            archive.write(file, file.relative_to(root))
    return path


def test_a_zip(tmp_path: Path) -> None:
    model = open_model(zipped(directory(tmp_path / "a", h__py="pass")), tmp_path / "out")
    assert (model.name, model.version, model.handler) == ("m", "2.0", "h.py:entry")
    assert (model.directory, model.runtime, model.config) == (tmp_path / "out", "python", {})
    assert model.manifest == MANIFEST
    assert model.requirements_file is None


def test_a_tar(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "m.mar", "w:gz") as archive:
        archive.add(directory(tmp_path / "a", h__py="pass"), "anything")
    model = open_model(tmp_path / "m.mar", tmp_path / "out")
    assert (model.directory / "h.py").read_text() == "pass"


def test_a_directory_stays_where_it_is(tmp_path: Path) -> None:
    root = directory(tmp_path / "a")
    assert open_model(root, tmp_path / "out").directory == root
    assert not (tmp_path / "out").exists()


def test_a_sole_subdirectory_is_descended_into(tmp_path: Path) -> None:
    inner = directory(tmp_path / "outer/inner")
    assert open_model(tmp_path / "outer", tmp_path / "out").directory == inner


def test_an_old_manifest(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    old = {
        "modelServerVersion": "1.0",
        "specificationVersion": "1.0",
        "model": {"modelName": "m", "modelVersion": 1},
    }
    with caplog.at_level(logging.WARNING):
        model = open_model(directory(tmp_path / "a", old), tmp_path / "out")
    assert (model.version, model.handler, model.runtime) == ("1", "", "python")
    assert len(caplog.records) == 2


@pytest.mark.parametrize("manifest", [None, {}, {"runtime": "python"}, {"model": {}}])
def test_nothing_has_to_be_in_a_manifest(tmp_path: Path, manifest: Any) -> None:
    model = open_model(zipped(directory(tmp_path / "a", manifest, h__py="pass")), tmp_path / "out")
    assert (model.name, model.version, model.handler, model.manifest) == ("", "1.0", "", manifest or {})


def test_a_missing_version(tmp_path: Path) -> None:
    assert (
        open_model(directory(tmp_path / "a", {"model": {"modelName": "m"}}), tmp_path / "out").version
        == "1.0"
    )


def test_a_configuration(tmp_path: Path) -> None:
    manifest = {**MANIFEST, "model": {**MODEL, "configFile": "c.yaml", "requirementsFile": "r.txt"}}
    text = "minWorkers: 2\nhandler: {scale: 0.5, labels: [a, b]}\n"
    model = open_model(directory(tmp_path / "a", manifest, c__yaml=text, r__txt=""), tmp_path / "out")
    assert model.config == {"minWorkers": 2, "handler": {"scale": 0.5, "labels": ["a", "b"]}}
    assert model.requirements_file == "r.txt"


def test_an_empty_configuration(tmp_path: Path) -> None:
    manifest = {**MANIFEST, "model": {**MODEL, "configFile": "c.yaml"}}
    assert open_model(directory(tmp_path / "a", manifest, c__yaml="# none"), tmp_path / "out").config == {}


@pytest.mark.parametrize("text", ["a: [", "- a", b"\xff\xfe\xfa", "a: !!python/name:os.system"])
def test_a_bad_configuration(tmp_path: Path, text: str | bytes) -> None:
    manifest = {**MANIFEST, "model": {**MODEL, "configFile": "c.yaml"}}
    path = zipped(directory(tmp_path / "a", manifest, c__yaml=text))
    with pytest.raises(InvalidModelError, match=r"Failed to parse model config file c\.yaml"):
        open_model(path, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("manifest", "message"),
    [
        ({"model": None}, "Missing Model entry in manifest file."),
        ({"model": []}, "Failed to parse signature.json."),
        ({"model": {"modelName": {}}}, "Failed to parse signature.json."),
        (b"nothing", "Failed to parse signature.json."),
        ({**MANIFEST, "runtime": "LSP"}, "Runtime LSP is not supported: only Python models can be served."),
        (
            {"model": {**MODEL, "configFile": "../c.yaml"}},
            "The file that the manifest names is not in the archive: ../c.yaml",
        ),
    ],
)
def test_bad_manifests(tmp_path: Path, manifest: Any, message: str) -> None:
    path = zipped(directory(tmp_path / "a", manifest))
    (tmp_path / "c.yaml").write_text("a: 1")
    with pytest.raises(InvalidModelError) as caught:
        open_model(path, tmp_path / "out")
    assert caught.value.message == message
    assert caught.value.status == 400
    assert not (tmp_path / "out").exists()
