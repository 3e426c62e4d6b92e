"""Equal inputs give equal archives but for `createdOn`, and an archive appears whole or not at all.

The options mean what those of torch-model-archiver and torch-workflow-archiver mean, and TorchServe reads
what is packed. `SOURCE_DATE_EPOCH` (seconds, UTC; reproducible-builds.org) fixes `createdOn` too.
"""

from __future__ import annotations

import filecmp
import glob
import gzip
import io
import json
import logging
import os
import re
import shutil
import tarfile
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Literal

from wfserve import __version__
from wfserve.archive.extract import MODEL_MANIFEST, WORKFLOW_MANIFEST
from wfserve.archive.spec import is_version
from wfserve.archive.war import SAMPLES
from wfserve.errors import BadRequestError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

log = logging.getLogger(__name__)

ArchiveFormat = Literal["default", "zip-store", "tgz", "no-archive"]
FORMATS: Mapping[ArchiveFormat, str] = {
    "default": ".mar",
    "zip-store": ".mar",
    "tgz": ".tar.gz",
    "no-archive": "",
}
RUNTIMES = ("python", "python3", "LSP")
NATIVE_RUNTIME = "LSP"  # handlers of this runtime are shared objects
DEFAULT_HANDLERS = frozenset(
    {"base_handler", "image_classifier", "image_segmenter", "object_detector", "text_classifier"}
)  # modules of the server, which archives do not carry

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_\-.]*")
_GLOB = re.compile(r"[*?]|\[.*\]")
_SKIPPED = frozenset({"__pycache__", "__MACOSX"})
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can say

Contents = dict[str, Path | bytes]  # name in the archive → file to take, or content


class PackError(BadRequestError):
    """Something is wrong with what should be packed, or with where it should go."""


@dataclass(frozen=True, slots=True)
class ModelArchiveOptions:
    """The options of torch-model-archiver."""

    model_name: str
    handler: str  # a file, either with `:function`, or the name of a default handler
    version: str
    serialized_file: Path | None = None
    model_file: Path | None = None
    extra_files: tuple[str, ...] = ()  # paths or globs, or several joined by commas; directories are merged
    runtime: str = "python"
    export_path: Path = Path()
    archive_format: ArchiveFormat = "default"
    force: bool = False  # replace what is there
    requirements_file: Path | None = None
    config_file: Path | None = None


@dataclass(frozen=True, slots=True)
class WorkflowArchiveOptions:
    """The options of torch-workflow-archiver."""

    workflow_name: str
    spec_file: Path
    handler: Path | None = None  # the file with the functions; not needed where every node is a model
    extra_files: tuple[str, ...] = ()  # paths or globs of files, or several joined by commas
    export_path: Path = Path()
    force: bool = False
    version: str | None = None  # digits and dots; this and the next are wfserve's own
    inputs: tuple[Path, ...] = ()  # bodies of requests that the workflow has to answer before it is served


def pack_model(options: ModelArchiveOptions) -> Path:
    """Pack a model archive and return where it is. Raises `PackError`."""
    if options.runtime not in RUNTIMES:
        raise PackError(f"Runtime {options.runtime} is none of {', '.join(RUNTIMES)}.")
    if options.archive_format not in FORMATS:
        raise PackError(f"Archive format {options.archive_format} is none of {', '.join(FORMATS)}.")
    target = _target(
        "Model", options.model_name, FORMATS[options.archive_format], options.export_path, options.force
    )
    single = {
        "serializedFile": options.serialized_file,
        "modelFile": options.model_file,
        "requirementsFile": options.requirements_file,
        "configFile": options.config_file,
    }
    given = {key: path for key, path in single.items() if path is not None}
    contents = _collect([*given.values(), *_handler_files(options)], options.extra_files, of_model=True)
    model = {
        "modelName": options.model_name,
        "handler": options.handler.rpartition("/")[2],
        "modelVersion": options.version,
        **{key: path.name for key, path in given.items()},
    }
    contents[MODEL_MANIFEST] = _manifest(runtime=options.runtime, model=model)
    return _write(options.archive_format, options.model_name, target, contents)


def pack_workflow(options: WorkflowArchiveOptions) -> Path:
    """Pack a workflow archive and return where it is. Raises `PackError`."""
    target = _target("Workflow", options.workflow_name, ".war", options.export_path, options.force)
    given = {"specFile": options.spec_file, "handler": options.handler}
    files = {key: path for key, path in given.items() if path is not None}
    contents = _collect(files.values(), options.extra_files, of_model=False)
    contents |= _samples(options.inputs)
    workflow = {"workflowName": options.workflow_name, **{key: path.name for key, path in files.items()}}
    if options.version is not None:
        if not is_version(options.version):
            raise PackError(f"Version {options.version!r} is not made of digits and dots, such as 1.10.")
        workflow["workflowVersion"] = options.version
    contents[WORKFLOW_MANIFEST] = _manifest(workflow=workflow)
    return _write("default", options.workflow_name, target, contents)


def _samples(inputs: Iterable[Path]) -> dict[str, Path]:
    samples: dict[str, Path] = {}
    for each in inputs:
        name = f"{SAMPLES}/{each.name}"
        if name in samples or not each.is_file():
            raise PackError(f"The input {each} is no file, or another has its name.")
        samples[name] = each
    return samples


def _target(kind: str, name: str, suffix: str, export_path: Path, force: bool) -> Path:
    if not _NAME.fullmatch(name):
        raise PackError(f"{kind} name {name!r} must match {_NAME.pattern}")
    if not export_path.is_dir():
        raise PackError(f"The export path {export_path} is not a directory.")
    target = export_path / f"{name}{suffix}"
    if target.exists() and not force:
        raise PackError(f"{target} already exists. Use --force (-f) to replace it.")
    return target


def _manifest(**sections: object) -> bytes:
    created = _created_on().strftime("%d/%m/%Y %H:%M:%S")
    return json.dumps({"createdOn": created, "archiverVersion": __version__, **sections}, indent=2).encode()


def _created_on() -> datetime:
    epoch = os.environ.get("SOURCE_DATE_EPOCH")
    try:
        return datetime.fromtimestamp(int(epoch), UTC) if epoch else datetime.now()
    except (ValueError, OverflowError, OSError):
        raise PackError(f"SOURCE_DATE_EPOCH is not a number of seconds: {epoch}") from None


def _handler_files(options: ModelArchiveOptions) -> list[Path]:
    file = options.handler.partition(":")[0]
    if file in DEFAULT_HANDLERS:
        return []
    is_complete = file.endswith(".py") or options.runtime == NATIVE_RUNTIME
    return [Path(file if is_complete else f"{file}.py")]


def _collect(files: Iterable[Path], extra_files: Iterable[str], *, of_model: bool) -> Contents:
    """Return what goes into an archive. A model's extra files may be directories, and none of a glob's."""
    contents: Contents = {}
    for path in files:
        _add(contents, path.name, path)
    for path in _expanded(extra_files, may_lack=of_model):
        if path.is_dir() and not of_model:
            raise PackError(f"Extra files of a workflow cannot be directories: {path}")
        for name, file in _walk(path) if path.is_dir() else [(path.name, path)]:
            _add(contents, name, file)
    return contents


def _add(contents: Contents, name: str, path: Path) -> None:
    if not path.is_file():
        raise PackError(f"No such file: {path}")
    other = contents.setdefault(name, path)
    if isinstance(other, Path) and other is not path and not filecmp.cmp(other, path, shallow=False):
        raise PackError(f"{other} and {path} would both be {name} in the archive.")


def _expanded(extra_files: Iterable[str], *, may_lack: bool) -> Iterator[Path]:
    for pattern in (part.strip() for item in extra_files for part in item.split(",")):
        if pattern and Path(pattern).exists():
            yield Path(pattern)  # a name with a bracket in it is a name first
        elif pattern:
            found = sorted(glob.glob(pattern, recursive=True))
            if not found and not (may_lack and _GLOB.search(pattern)):
                raise PackError(f"No such file: {pattern}")
            if not found:
                log.warning("No file matches %s.", pattern)
            yield from map(Path, found)


def _walk(root: Path) -> Iterator[tuple[str, Path]]:
    """Give the files below `root` with their names relative to it."""
    for parent, names, files in os.walk(root, followlinks=False):
        names[:] = sorted(name for name in names if name not in _SKIPPED and not name.startswith("."))
        for file in sorted(files):
            path = Path(parent, file)
            yield path.relative_to(root).as_posix(), path


def _write(form: ArchiveFormat, name: str, target: Path, contents: Contents) -> Path:
    with _replacing(target) as work:
        if form == "no-archive":
            _write_directory(work, contents)
        elif form == "tgz":
            _write_tar(work, name, contents)
        else:
            _write_zip(work, zipfile.ZIP_STORED if form == "zip-store" else zipfile.ZIP_DEFLATED, contents)
    return target


@contextmanager
def _replacing(target: Path) -> Iterator[Path]:
    """Give a path next to `target`; what is there in the end becomes `target`."""
    try:
        with tempfile.TemporaryDirectory(prefix=".pack-", dir=target.parent) as scratch:
            work = Path(scratch, target.name)
            yield work
            if target.is_dir() and not target.is_symlink():
                target.rename(Path(scratch, "replaced"))  # a directory cannot be replaced in one step
            work.replace(target)
    except OSError as error:
        raise PackError(f"Cannot write {target}: {error.strerror or error}") from error


def _write_zip(work: Path, method: int, contents: Contents) -> None:
    with zipfile.ZipFile(work, "w", method) as archive:
        for name, source in sorted(contents.items()):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.compress_type = method
            info.external_attr = 0o100644 << 16
            info.file_size = _size(source)  # tells zipfile whether 32 bits will do
            with _open(source) as file, archive.open(info, "w") as sink:
                shutil.copyfileobj(file, sink)


def _write_tar(work: Path, root: str, contents: Contents) -> None:
    with (
        work.open("wb") as file,
        gzip.GzipFile("", "wb", fileobj=file, mtime=0) as packed,
        tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as archive,
    ):
        for name, source in sorted(contents.items()):
            info = tarfile.TarInfo(f"{root}/{name}")
            info.size = _size(source)
            with _open(source) as content:
                archive.addfile(info, content)


def _write_directory(work: Path, contents: Contents) -> None:
    for name, source in contents.items():
        target = work / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with _open(source) as file, target.open("wb") as sink:
            shutil.copyfileobj(file, sink)


def _size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _open(source: Path | bytes) -> BinaryIO:
    return io.BytesIO(source) if isinstance(source, bytes) else source.open("rb")
