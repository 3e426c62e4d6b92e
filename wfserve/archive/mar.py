"""An open ModelArchive is unpacked or a directory in place, and its manifest and configuration are valid."""

from __future__ import annotations

import logging
import shutil
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wfserve.archive import plain
from wfserve.archive.extract import MODEL_MANIFEST, ExtractLimits
from wfserve.archive.manifest import Manifest, member_of, read_manifest, section_of, text_of, unpack
from wfserve.errors import InvalidModelError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

log = logging.getLogger(__name__)

DEFAULT_VERSION = "1.0"
PYTHON_RUNTIMES = ("python", "python3")


@dataclass(frozen=True, slots=True)
class ModelArchive:
    """A model archive on disk, ready to be loaded by a worker. What its manifest lacks may be empty."""

    name: str
    version: str
    handler: str  # as the manifest has it: a module, a file, either with `:function`, or a default handler
    directory: Path
    manifest: Manifest
    config: dict[str, Any]  # model-config.yaml; empty if the archive has none
    runtime: str
    requirements_file: str | None


def open_model(path: Path, into: Path, limits: ExtractLimits | None = None) -> ModelArchive:
    """Read the model archive at `path`: a directory where it is, a file after unpacking it into `into`.

    Raises `InvalidModelError` or `TooLargeError`, and leaves nothing of the new directory `into`.
    """
    if path.is_dir():
        return read_model(path)
    unpack(path, into, limits or ExtractLimits(), InvalidModelError)
    try:
        return read_model(into)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


def read_model(directory: Path) -> ModelArchive:
    """Read an unpacked model archive in place; a sole subdirectory is descended into.

    As in TorchServe, all of the manifest may be missing. Raises `InvalidModelError`.
    """
    directory = _descend(directory)
    manifest = read_manifest(directory / MODEL_MANIFEST, InvalidModelError)
    model = section_of({"model": {}, **manifest}, "model", InvalidModelError)
    name = text_of(model, "modelName", InvalidModelError) or ""
    _warn_of_missing(name, manifest)
    return ModelArchive(
        name=name,
        version=text_of(model, "modelVersion", InvalidModelError) or DEFAULT_VERSION,
        handler=text_of(model, "handler", InvalidModelError) or "",
        directory=directory,
        manifest=manifest,
        config=_config_of(directory, model),
        runtime=_runtime_of(manifest),
        requirements_file=text_of(model, "requirementsFile", InvalidModelError),
    )


def _descend(directory: Path) -> Path:
    entries = list(directory.iterdir())
    if len(entries) == 1 and entries[0].is_dir() and entries[0].name != MODEL_MANIFEST.partition("/")[0]:
        return entries[0]
    return directory


def _runtime_of(manifest: Manifest) -> str:
    runtime = text_of(manifest, "runtime", InvalidModelError) or PYTHON_RUNTIMES[0]
    if runtime not in PYTHON_RUNTIMES:
        raise InvalidModelError(f"Runtime {runtime} is not supported: only Python models can be served.")
    return runtime


def _warn_of_missing(name: str, manifest: Manifest) -> None:
    for key in ("archiverVersion", "createdOn"):
        if manifest.get(key) is None:
            log.warning("model %s: its manifest has no %s", name or "without a name", key)


def _config_of(directory: Path, model: Mapping[str, Any]) -> dict[str, Any]:
    name = text_of(model, "configFile", InvalidModelError)
    if name is None:
        return {}
    try:
        config = plain.load(member_of(directory, name, InvalidModelError).read_text(encoding="utf-8-sig"))
    except (plain.YamlError, UnicodeDecodeError) as error:
        raise InvalidModelError(f"Failed to parse model config file {name}: {error}") from error
    if config is None:
        return {}
    if not isinstance(config, dict):
        raise InvalidModelError(f"Failed to parse model config file {name}: it must be a map.")
    return config
