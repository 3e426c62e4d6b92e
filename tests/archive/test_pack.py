"""What is packed is what was asked for, byte for byte the same each time, whole or not there."""

import json
import tarfile
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from wfserve.archive.extract import ExtractLimits, extract
from wfserve.archive.mar import open_model
from wfserve.archive.pack import (
    ArchiveFormat,
    ModelArchiveOptions,
    PackError,
    WorkflowArchiveOptions,
    pack_model,
    pack_workflow,
)
from wfserve.archive.war import open_workflow

FORMATS: list[ArchiveFormat] = ["default", "zip-store", "tgz", "no-archive"]


@pytest.fixture
def sources(tmp_path: Path) -> Path:
    """Files to pack."""
    root = tmp_path / "src"
    for name in ("h.py", "m.pt", "net.py", "r.txt", "extra/a.txt", "extra/sub/b.txt", "extra/[c].txt"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(f"content of {name}\n")
    for junk in ("extra/__pycache__/x.pyc", "extra/__MACOSX/y", "extra/.git/config"):
        (root / junk).parent.mkdir(parents=True)
        (root / junk).touch()
    (root / "c.yaml").write_text("minWorkers: 1\n")
    (root / "w.yaml").write_text("models: {m: {url: m.mar}}\ndag: {f: [m]}\n")
    return root


@pytest.fixture
def model(sources: Path, tmp_path: Path) -> ModelArchiveOptions:
    """The least that a model archive needs."""
    return ModelArchiveOptions("m", str(sources / "h.py"), "1.0", export_path=tmp_path)


@pytest.fixture
def workflow(sources: Path, tmp_path: Path) -> WorkflowArchiveOptions:
    """A workflow archive's usual options."""
    return WorkflowArchiveOptions("w", sources / "w.yaml", sources / "h.py", export_path=tmp_path)


def names(path: Path) -> set[str]:
    """Return the names in a zip, without the manifest's."""
    with zipfile.ZipFile(path) as archive:
        return {name for name in archive.namelist() if "-INF/" not in name}


def manifest_of(path: Path, folder: str = "MAR-INF") -> dict[str, Any]:
    """Return the manifest in a zip."""
    with zipfile.ZipFile(path) as archive:
        return json.loads(archive.read(f"{folder}/MANIFEST.json"))


@pytest.mark.parametrize("form", FORMATS)
def test_every_format_opens(
    model: ModelArchiveOptions, sources: Path, tmp_path: Path, form: ArchiveFormat
) -> None:
    options = replace(
        model,
        serialized_file=sources / "m.pt",
        model_file=sources / "net.py",
        requirements_file=sources / "r.txt",
        config_file=sources / "c.yaml",
        extra_files=(str(sources / "extra"),),
        archive_format=form,
    )
    opened = open_model(pack_model(options), tmp_path / "out")
    assert opened.manifest["model"] == {
        "modelName": "m",
        "handler": "h.py",
        "modelVersion": "1.0",
        "serializedFile": "m.pt",
        "modelFile": "net.py",
        "requirementsFile": "r.txt",
        "configFile": "c.yaml",
    }
    assert opened.config == {"minWorkers": 1}
    assert (opened.directory / "sub/b.txt").read_text() == "content of extra/sub/b.txt\n"
    files = {str(p.relative_to(opened.directory)) for p in opened.directory.rglob("*") if p.is_file()}
    own = {"h.py", "m.pt", "net.py", "r.txt", "c.yaml", "MAR-INF/MANIFEST.json"}
    assert files == own | {"a.txt", "sub/b.txt", "[c].txt"}


def test_what_the_formats_are(model: ModelArchiveOptions, tmp_path: Path) -> None:
    paths = {form: pack_model(replace(model, model_name=form, archive_format=form)) for form in FORMATS}
    assert [path.name for path in paths.values()] == [
        "default.mar",
        "zip-store.mar",
        "tgz.tar.gz",
        "no-archive",
    ]
    for form, method in (("default", zipfile.ZIP_DEFLATED), ("zip-store", zipfile.ZIP_STORED)):
        with zipfile.ZipFile(paths[form]) as archive:
            assert {info.compress_type for info in archive.infolist()} == {method}
            assert not any(
                info.flag_bits & 0x8 for info in archive.infolist()
            )  # a stream reader needs the sizes first
    with tarfile.open(paths["tgz"]) as tar:
        assert tar.getnames() == ["tgz/MAR-INF/MANIFEST.json", "tgz/h.py"]
    assert paths["no-archive"].is_dir()


@pytest.mark.parametrize(
    ("handler", "in_manifest", "packed"),
    [
        ("h.py", "h.py", {"h.py"}),
        ("h", "h", {"h.py"}),
        ("h.py:entry", "h.py:entry", {"h.py"}),
        ("image_classifier", "image_classifier", set()),
        ("base_handler", "base_handler", set()),
    ],
)
def test_handlers(
    model: ModelArchiveOptions, sources: Path, handler: str, in_manifest: str, packed: set[str]
) -> None:
    is_file = handler.startswith("h")
    path = pack_model(replace(model, handler=str(sources / handler) if is_file else handler))
    assert manifest_of(path)["model"]["handler"] == in_manifest
    assert names(path) == packed


def test_a_handler_of_the_native_runtime_is_taken_as_it_is(model: ModelArchiveOptions, sources: Path) -> None:
    (sources / "libh.so").touch()
    path = pack_model(replace(model, handler=f"{sources}/libh.so:Handler", runtime="LSP"))
    assert manifest_of(path)["model"]["handler"] == "libh.so:Handler"
    assert names(path) == {"libh.so"}


def test_extra_files(model: ModelArchiveOptions, sources: Path) -> None:
    def packed(*extra: str) -> set[str]:
        return names(pack_model(replace(model, force=True, extra_files=extra))) - {"h.py"}

    assert packed(f"{sources}/r.txt, {sources}/net.py") == {"r.txt", "net.py"}
    assert packed(f"{sources}/extra/*.txt", f"{sources}/m.pt") == {"a.txt", "[c].txt", "m.pt"}
    assert packed(f"{sources}/extra/[c].txt,") == {"[c].txt"}
    assert packed(f"{sources}/**/b.txt") == {"b.txt"}
    assert packed(f"{sources}/h.py") == set()  # the handler once more


@pytest.mark.parametrize("pattern", ["missing*", "missing?", "missing[1]"])
def test_a_glob_that_matches_nothing(
    model: ModelArchiveOptions,
    workflow: WorkflowArchiveOptions,
    sources: Path,
    caplog: pytest.LogCaptureFixture,
    pattern: str,
) -> None:
    extra = (f"{pattern},{sources}/r.txt",)
    assert names(pack_model(replace(model, extra_files=extra))) == {"h.py", "r.txt"}
    assert caplog.messages == [f"No file matches {pattern}."]
    with pytest.raises(PackError, match="No such file"):
        pack_workflow(replace(workflow, extra_files=extra))


def test_the_manifest(model: ModelArchiveOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "86400")
    manifest = manifest_of(pack_model(replace(model, runtime="python3")))
    assert manifest["createdOn"] == "02/01/1970 00:00:00"
    assert manifest["runtime"] == "python3"
    assert manifest["archiverVersion"]


@pytest.mark.parametrize("form", FORMATS[:3])
def test_packing_twice_gives_the_same_bytes(
    model: ModelArchiveOptions, sources: Path, monkeypatch: pytest.MonkeyPatch, form: ArchiveFormat
) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1700000000")
    options = replace(model, archive_format=form, extra_files=(str(sources / "extra"),), force=True)
    first = pack_model(options).read_bytes()
    (sources / "h.py").touch()
    (sources / "extra/a.txt").chmod(0o600)
    assert pack_model(options).read_bytes() == first


def test_a_workflow(workflow: WorkflowArchiveOptions, sources: Path, tmp_path: Path) -> None:
    path = pack_workflow(replace(workflow, extra_files=(f"{sources}/r.txt,{sources}/net.py",)))
    assert path == tmp_path / "w.war"
    assert names(path) == {"w.yaml", "h.py", "r.txt", "net.py"}
    assert manifest_of(path, "WAR-INF")["workflow"] == {
        "workflowName": "w",
        "specFile": "w.yaml",
        "handler": "h.py",
    }
    assert open_workflow(path, tmp_path / "out").handler == "h.py"


def test_a_workflow_with_a_version_and_inputs(
    workflow: WorkflowArchiveOptions, sources: Path, tmp_path: Path
) -> None:
    path = pack_workflow(replace(workflow, version="1.10", inputs=(sources / "r.txt",)))
    assert names(path) == {"w.yaml", "h.py", "warm-up/r.txt"}
    assert open_workflow(path, tmp_path / "out").version == "1.10"


def test_versions_and_inputs_that_are_none(workflow: WorkflowArchiveOptions, sources: Path) -> None:
    with pytest.raises(PackError, match="'v1' is not made of digits and dots"):
        pack_workflow(replace(workflow, version="v1"))
    for inputs in ((sources / "none",), (sources / "r.txt", sources / "r.txt")):
        with pytest.raises(PackError, match="is no file, or another has its name"):
            pack_workflow(replace(workflow, inputs=inputs))


def test_a_workflow_takes_no_directories(workflow: WorkflowArchiveOptions, sources: Path) -> None:
    with pytest.raises(PackError, match="cannot be directories"):
        pack_workflow(replace(workflow, extra_files=(str(sources / "extra"),)))


@pytest.mark.parametrize("form", FORMATS)
def test_what_is_there_stays_unless_forced(
    model: ModelArchiveOptions, sources: Path, form: ArchiveFormat
) -> None:
    options = replace(model, archive_format=form)
    path = pack_model(options)
    with pytest.raises(PackError) as caught:
        pack_model(options)
    assert caught.value.message.startswith(f"{path} already exists.")
    pack_model(replace(options, force=True, version="2.0"))
    assert open_model(path, path.parent / "out").version == "2.0"
    assert not list(path.parent.glob(".pack-*"))


@pytest.mark.parametrize("name", ["", "-m", ".m", "m/n", "m n", "é", "m\n"])
def test_names(model: ModelArchiveOptions, workflow: WorkflowArchiveOptions, name: str) -> None:
    with pytest.raises(PackError, match="must match"):
        pack_model(replace(model, model_name=name))
    with pytest.raises(PackError, match="must match"):
        pack_workflow(replace(workflow, workflow_name=name))


def test_bad_options_leave_nothing(model: ModelArchiveOptions, sources: Path, tmp_path: Path) -> None:
    (sources / "other").mkdir()
    (sources / "other/h.py").write_text("another")
    for change, message in (
        ({"export_path": tmp_path / "missing"}, "not a directory"),
        ({"serialized_file": sources / "missing.pt"}, "No such file"),
        ({"handler": "missing"}, "No such file: missing.py"),
        ({"extra_files": ("missing",)}, "No such file"),
        ({"extra_files": ("missing[",)}, "No such file"),
        ({"extra_files": (str(sources / "other"),)}, "would both be h.py"),
        ({"runtime": "java"}, "Runtime java"),
        ({"archive_format": "rar"}, "Archive format rar"),
    ):
        with pytest.raises(PackError, match=message):
            pack_model(replace(model, **change))  # type: ignore[arg-type]
    assert [path.name for path in tmp_path.iterdir()] == ["src"]


def test_repacking_an_extracted_archive(model: ModelArchiveOptions, tmp_path: Path) -> None:
    extract(pack_model(model), tmp_path / "old", ExtractLimits())
    path = pack_model(replace(model, version="2.0", force=True, extra_files=(str(tmp_path / "old"),)))
    assert manifest_of(path)["model"]["modelVersion"] == "2.0"


def test_a_bad_epoch(model: ModelArchiveOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "yesterday")
    with pytest.raises(PackError, match="SOURCE_DATE_EPOCH"):
        pack_model(model)
