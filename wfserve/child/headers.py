"""A client's headers reach handlers through their Context, and are as open as any class of Python's.

This module is never compiled: what handlers get they may copy, pickle, and derive from.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any, Final, NamedTuple

import orjson

REMEMBERED: Final = 64  # clients' headers: each node of a chain looks at the same
_NONE: Final[Mapping[str, str]] = {}


class _Sent(NamedTuple):
    """What a client sent; shared by all who look at it, who must not change it."""

    as_spelled: Mapping[str, str]
    in_lower_case: Mapping[str, str]  # of names that differ in case only, the first counts


@lru_cache(REMEMBERED)
def _parsed(encoded: bytes) -> _Sent:
    sent: dict[str, str] = dict(orjson.loads(encoded) if encoded else ())
    return _Sent(sent, {name.lower(): value for name, value in reversed(sent.items())})


class Headers(Mapping[str, Any]):
    """A client's headers as it spelled them, parsed when first looked at; of equal names the last counts.

    A start node's parameters are among them, as TorchServe has it: `{"body": {"content-type": …}}`.
    """

    __slots__ = ("_encoded", "_parameters", "_values")

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._values: dict[str, Any] | None = None
        self._parameters: Mapping[str, str] = _NONE

    def add_parameters(self, content_types: Mapping[str, str]) -> None:
        """Add entries for parameters, whose content types come by their names; a header of that name wins."""
        self._parameters = content_types
        self._values = None

    def content_type(self) -> str:
        """Return the content type of the body, empty if the client gave none."""
        return self.find("content-type") or ""

    def find(self, lower: str) -> str | None:
        """Return the value of a header, whose name is given in lower case; None if the client sent none."""
        return _parsed(self._encoded).in_lower_case.get(lower)

    def named(self, key: str) -> Any:
        """Return the entry `key`, else the first that differs in case only; None if there is none."""
        values = self._all()
        if key in values:
            return values[key]
        lower = key.lower()
        for name in self._parameters:
            if name.lower() == lower:
                return values[name]
        return self.find(lower)

    def _all(self) -> dict[str, Any]:
        if self._values is None:
            self._values = {name: {"content-type": each} for name, each in self._parameters.items()}
            self._values.update(_parsed(self._encoded).as_spelled)
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())
