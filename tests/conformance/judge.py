"""An expectation is a map of checks, each of which names what in a response is not as expected.

    status: 200
    headers: {Name: value}          # null: absent
    text: exact body
    json: value                     # the body, parsed, equals it
    subset: value                   # … or has it: maps may have more keys, lists may not have more items
    match: regular expression       # of the whole body; a dot is any character

A string between slashes, in `headers`, `json` and `subset`, is a regular expression of the whole value.
"""

from __future__ import annotations

import json
import re
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping


class Response(NamedTuple):
    """What came back; names of headers are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode("utf-8", "backslashreplace")

    def __str__(self) -> str:
        return f"{self.status} {dict(self.headers)}\n{self.text[:2000]}"


def judge(expected: Mapping[str, Any], response: Response) -> list[str]:
    """Return what is wrong with `response`, a line each. Raises `KeyError` for an unknown check."""
    return [problem for name, value in expected.items() for problem in CHECKS[name](value, response)]


def _status(expected: int, response: Response) -> Iterator[str]:
    if response.status != expected:
        yield f"status {response.status}, not {expected}"


def _headers(expected: Mapping[str, str | None], response: Response) -> Iterator[str]:
    for name, value in expected.items():
        given = response.headers.get(name.lower())
        if not _is(value, given, exact=True):
            yield f"header {name}: {given!r}, not {value!r}"


def _text(expected: str, response: Response) -> Iterator[str]:
    if response.text != expected:
        yield f"body {response.text[:200]!r}, not {expected!r}"


def _match(expected: str, response: Response) -> Iterator[str]:
    if not re.fullmatch(expected, response.text, re.DOTALL):
        yield f"body {response.text[:200]!r}, which does not match {expected!r}"


def _json(expected: Any, response: Response) -> Iterator[str]:
    yield from _parsed(expected, response, exact=True)


def _subset(expected: Any, response: Response) -> Iterator[str]:
    yield from _parsed(expected, response, exact=False)


def _parsed(expected: Any, response: Response, *, exact: bool) -> Iterator[str]:
    try:
        found = json.loads(response.text)
    except ValueError:
        yield f"body {response.text[:200]!r}, which is not JSON"
        return
    if not _is(expected, found, exact=exact):
        yield f"body {found}, not {expected}"


def _is(expected: Any, found: Any, *, exact: bool) -> bool:
    if isinstance(expected, str) and len(expected) > 1 and expected[0] == expected[-1] == "/":
        return isinstance(found, str) and re.fullmatch(expected[1:-1], found, re.DOTALL) is not None
    if isinstance(expected, dict) and isinstance(found, dict):
        keys = found.keys() == expected.keys() if exact else found.keys() >= expected.keys()
        return keys and all(_is(value, found[key], exact=exact) for key, value in expected.items())
    if isinstance(expected, list) and isinstance(found, list):
        pairs = zip(expected, found, strict=False)
        return len(expected) == len(found) and all(_is(each, other, exact=exact) for each, other in pairs)
    return bool(type(expected) is type(found) and expected == found)


CHECKS: dict[str, Callable[[Any, Response], Iterator[str]]] = {
    "status": _status,
    "headers": _headers,
    "text": _text,
    "json": _json,
    "subset": _subset,
    "match": _match,
}
