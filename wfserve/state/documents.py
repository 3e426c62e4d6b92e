"""A workflow's document is plain JSON: what is read is equal to what was written, or is refused.

The database and snapshots hold the same documents. A field that is missing has its default, so that a new one
changes no document before it.
"""

from __future__ import annotations

from dataclasses import asdict
from typing import TYPE_CHECKING, Any, TypeVar

import orjson

from wfserve.errors import BadRequestError, WfserveError
from wfserve.state.records import Content, LiveSettings, Sample, Traffic, Version, Workflow

if TYPE_CHECKING:
    from collections.abc import Callable

Document = dict[str, Any]
T = TypeVar("T")


class DocumentError(BadRequestError):
    """A document that is no workflow's."""


def to_document(workflow: Workflow) -> Document:
    """Return the document of `workflow`; equal workflows have equal ones."""
    return asdict(workflow) | {
        "versions": [_of_version(version) for version in workflow.versions],
        "traffic": None if workflow.traffic is None else _of_traffic(workflow.traffic),
    }


def _of_version(version: Version) -> Document:
    return asdict(version) | {
        "startup_timeout": _float(version.startup_timeout),
        "response_timeout": _float(version.response_timeout),
        "settings": {node: each.given() for node, each in version.settings.items()},
    }


def _of_traffic(traffic: Traffic) -> Document:
    weights = {version: _float(weight) for version, weight in traffic.weights.items()}
    return asdict(traffic) | {"weights": weights}


def _float(number: float | None) -> float | None:
    return None if number is None else float(number)  # 1 equals 1.0, and is other JSON


def encode(document: object) -> bytes:
    """Return `document` as JSON, the same bytes for equal ones."""
    return orjson.dumps(document, option=orjson.OPT_SORT_KEYS)


def decode(text: bytes | str) -> Any:
    """Return what the JSON `text` says. Raises `DocumentError`."""
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise DocumentError(f"not JSON: {error}") from None


def from_document(document: object) -> Workflow:
    """Return the workflow that `document` describes. Raises `DocumentError`."""
    try:
        return _workflow(_object(document))
    except WfserveError as error:  # of records, which refuse what cannot be
        raise DocumentError(f"not a workflow: {error.message}") from None


def _workflow(document: Document) -> Workflow:
    traffic = document.get("traffic")
    versions, sample = document.get("versions"), document.get("sample")
    if not isinstance(versions, list):
        raise DocumentError("its versions are not a list")
    return Workflow(
        name=_text(document, "name"),
        default=_text(document, "default"),
        versions=tuple(_version(_object(each)) for each in versions),
        traffic=None if traffic is None else _traffic(_object(traffic)),
        previous=_text_or_none(document, "previous"),
        sample=None if sample is None else _sample(_object(sample)),
        recording=_flag(document, "recording"),
    )


def _version(document: Document) -> Version:
    return Version(
        version=_text(document, "version"),
        archive=_content(document.get("archive")),
        url=_text(document, "url"),
        given=_flag(document, "given"),
        startup_timeout=_seconds(document, "startup_timeout"),
        response_timeout=_seconds(document, "response_timeout"),
        models=_each(document, "models", _content),
        settings=_each(document, "settings", _settings),
    )


def _traffic(document: Document) -> Traffic:
    return Traffic(
        weights=_each(document, "weights", _number),
        sticky_header=_text_or_none(document, "sticky_header"),
        shadow=_text_or_none(document, "shadow"),
    )


def _sample(document: Document) -> Sample:
    headers = _object(document.get("headers", {}))
    return Sample(_content(document.get("body")), {name: _text(headers, name) for name in headers})


def _content(value: object) -> Content:
    document = _object(value)
    return Content(_text(document, "digest"), _integer(document.get("size")))


def _settings(value: object) -> LiveSettings:
    document = _object(value)
    unknown = document.keys() - LiveSettings.__slots__
    if unknown:
        raise DocumentError(f"{min(unknown)!r} is no setting of a node")
    return LiveSettings(**{name: _integer(each) for name, each in document.items()})


def _each(document: Document, key: str, read: Callable[[object], T]) -> dict[str, T]:
    return {name: read(value) for name, value in _object(document.get(key, {})).items()}


def _object(value: object) -> Document:
    if not isinstance(value, dict):
        raise DocumentError(f"{str(value)[:80]!r} is not an object")
    return value


def _text(document: Document, key: str) -> str:
    value = document.get(key)
    if not isinstance(value, str):
        raise DocumentError(f"{key} is not a text")
    return value


def _text_or_none(document: Document, key: str) -> str | None:
    return None if document.get(key) is None else _text(document, key)


def _flag(document: Document, key: str) -> bool:
    value = document.get(key, False)
    if not isinstance(value, bool):
        raise DocumentError(f"{key} is neither true nor false")
    return value


def _seconds(document: Document, key: str) -> float | None:
    return None if document.get(key) is None else _number(document[key])


def _number(value: object) -> float:
    if type(value) not in (int, float):  # true is no number
        raise DocumentError(f"{str(value)[:80]!r} is not a number")
    return float(value)  # type: ignore[arg-type]


def _integer(value: object) -> int:
    if type(value) is not int:
        raise DocumentError(f"{str(value)[:80]!r} is not a whole number")
    return value
