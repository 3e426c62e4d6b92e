"""A manifest is a JSON object of bounded size; an archive without one has an empty one, as in TorchServe."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import TYPE_CHECKING, Any, NoReturn

from wfserve.archive.extract import ArchiveError, extract

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wfserve.archive.extract import ExtractLimits
    from wfserve.errors import WfserveError

Manifest = dict[str, Any]
Invalid = type["WfserveError"]  # the error of the archive's kind

LARGEST = 1 << 20  # bytes


def unpack(path: Path, into: Path, limits: ExtractLimits, invalid: Invalid) -> None:
    """Extract `path` as `extract` does, with what is wrong told as `invalid`."""
    try:
        extract(path, into, limits)
    except ArchiveError as error:
        raise invalid(error.message) from error


def read_manifest(file: Path, invalid: Invalid) -> Manifest:
    """Return the manifest in `file`, an empty one if there is no such file. Raises `invalid`."""
    if not file.is_file():
        return {}
    if file.stat().st_size > LARGEST:
        _refuse(invalid)
    try:
        manifest = json.loads(file.read_bytes(), parse_constant=_refuse_constant)
    except (ValueError, RecursionError):
        _refuse(invalid)
    if not isinstance(manifest, dict):
        _refuse(invalid)
    return manifest


def section_of(manifest: Manifest, name: str, invalid: Invalid) -> Manifest:
    """Return the object called `name`. Raises `invalid`, with TorchServe's text if it is missing or null."""
    section = manifest.get(name)
    if section is None:
        raise invalid(f"Missing {name.capitalize()} entry in manifest file.")
    if not isinstance(section, dict):
        _refuse(invalid)
    return section


def text_of(section: Mapping[str, Any], key: str, invalid: Invalid) -> str | None:
    """Return a scalar as text, None if it is missing or empty; old archivers wrote versions as numbers."""
    value = section.get(key)
    if isinstance(value, dict | list) or not _is_unicode(str(value)):
        _refuse(invalid)
    return None if value is None or value == "" else str(value)


def _is_unicode(text: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in text)


def member_of(directory: Path, name: str, invalid: Invalid) -> Path:
    """Return the path of a file that a manifest names. Raises `invalid` if it is not there."""
    inside = not name.startswith("/") and ".." not in name.split("/")
    with suppress(OSError, ValueError):  # too long for a path, or with a zero byte: not there either
        if inside and (directory / name).is_file():
            return directory / name
    raise invalid(f"The file that the manifest names is not in the archive: {name}")


def _refuse(invalid: Invalid) -> NoReturn:
    raise invalid("Failed to parse signature.json.") from None


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not JSON")
