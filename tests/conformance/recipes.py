"""A recipe becomes an archive in a store: packed from options as an archiver packs it, or member by member.

    a.war: {spec: text, functions: file of handlers/, extra: {name: content}}
    a.mar: {handler: file of handlers/, version: "1.0", …}  # torch-model-archiver's options, files as content
    a.war: {zip: {member: content}}                         # or tar, or directory
    a.war: {content: content}                               # any file

A content is text, bytes, `{file: name}` of handlers/, `{weights: name}` of weights.py, or a map: JSON.
`archiver: torchserve` packs with the archivers of TORCHSERVE if there is one; what they write is read, too.
"""

from __future__ import annotations

import io
import json
import os
import shutil
import subprocess
import tarfile
import tempfile
import zipfile
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

if TYPE_CHECKING:
    from collections.abc import Mapping

HANDLERS = Path(__file__).with_name("handlers")
_FILES = ("serialized_file", "model_file", "requirements_file", "config_file")
_NAMES = {
    "serialized_file": "weights.pt",
    "model_file": "network.py",
    "requirements_file": "requirements.txt",
    "config_file": "model-config.yaml",
}


def write(store: Path, name: str, recipe: Mapping[str, Any]) -> None:
    """Make the archive `name` in `store`, in place of one that is there."""
    target = store / name
    remove(target)
    if "content" in recipe:
        target.write_bytes(_content(recipe["content"]))
    elif "zip" in recipe:
        _write_zip(target, recipe["zip"])
    elif "tar" in recipe:
        _write_tar(target, recipe["tar"])
    elif "directory" in recipe:
        _write_files(target, recipe["directory"])
    else:
        _pack(target, **recipe)


def remove(target: Path) -> None:
    """Remove an archive, whatever it is."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)


def _content(content: str | bytes | Mapping[str, Any]) -> bytes:
    if isinstance(content, bytes):
        return content
    if isinstance(content, str):
        return content.encode()
    if content.keys() == {"file"}:
        return (HANDLERS / content["file"]).read_bytes()
    if content.keys() == {"weights"}:
        from tests.conformance.weights import WEIGHTS

        return WEIGHTS[content["weights"]]()
    return json.dumps(content, indent=2).encode()


def _write_zip(target: Path, members: Mapping[str, Any]) -> None:
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(name, _content(content))


def _write_tar(target: Path, members: Mapping[str, Any]) -> None:
    with tarfile.open(target, "w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data := _content(content))
            archive.addfile(info, io.BytesIO(data))


def _write_files(directory: Path, files: Mapping[str, Any]) -> None:
    for name, content in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(_content(content))


def _pack(target: Path, archiver: str = "wfserve", **options: Any) -> None:
    real = os.environ.get("TORCHSERVE") if archiver == "torchserve" else None
    with tempfile.TemporaryDirectory() as scratch:
        export = Path(scratch, "export")
        export.mkdir()
        given = _options(target.name.partition(".")[0], Path(scratch), export, options)
        if real:
            _run_archiver(Path(real), given)
        elif isinstance(given, ModelArchiveOptions):
            pack_model(given)
        else:
            pack_workflow(given)
        (packed,) = export.iterdir()
        shutil.move(packed, target)


def _options(
    stem: str, scratch: Path, export: Path, given: dict[str, Any]
) -> ModelArchiveOptions | WorkflowArchiveOptions:
    extra = given.pop("extra", {})
    _write_files(scratch / "extra", extra)
    extra_files = tuple(str(scratch / "extra" / name) for name in extra)
    if "spec" in given:
        _write_files(scratch, {"spec.yaml": given.pop("spec")})
        functions = HANDLERS / given.pop("functions") if "functions" in given else None
        return WorkflowArchiveOptions(
            given.pop("name", stem), scratch / "spec.yaml", functions, extra_files, export, **given
        )
    for key in _FILES:
        if key in given:
            _write_files(scratch, {_NAMES[key]: given[key]})
            given[key] = scratch / _NAMES[key]
    file, colon, function = given.pop("handler").partition(":")
    handler = str(HANDLERS / file) if (HANDLERS / file).with_suffix(".py").exists() else file
    version = given.pop("version", "1.0")
    return ModelArchiveOptions(
        given.pop("name", stem), handler + colon + function, version,
        extra_files=extra_files, export_path=export, **given,
    )  # fmt: skip


def _run_archiver(venv: Path, options: ModelArchiveOptions | WorkflowArchiveOptions) -> None:
    kind = "model" if isinstance(options, ModelArchiveOptions) else "workflow"
    command = [str(venv / "bin" / f"torch-{kind}-archiver")]
    for field in fields(options):
        value = getattr(options, field.name)
        text = ",".join(value) if isinstance(value, tuple) else str(value)
        if field.name != "force" and value is not None and text:
            command += [f"--{field.name.replace('_', '-')}", text]
    subprocess.run(command, check=True, capture_output=True)
