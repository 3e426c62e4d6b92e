"""A Diagnostic says what is wrong in a file, where, and which name was probably meant."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable

Severity = Literal["error", "warning"]


class Position(NamedTuple):
    """A place in a text; line and column count from 1."""

    line: int
    column: int


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One finding; `str()` gives the `file:line:column: severity: message` that editors understand."""

    file: str
    line: int
    column: int
    message: str
    hint: str | None = None  # the name that was probably meant
    severity: Severity = "error"

    def __str__(self) -> str:
        guess = f" (did you mean '{self.hint}'?)" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.severity}: {self.message}{guess}"

    @property
    def is_error(self) -> bool:
        """Whether this alone makes the file unusable."""
        return self.severity == "error"


def closest(name: str, candidates: Iterable[str]) -> str | None:
    """Return the candidate most like `name` (Ratcliff-Obershelp), or None when none is near."""
    return next(iter(difflib.get_close_matches(name, sorted(candidates), n=1)), None)


def in_file_order(found: Diagnostic) -> tuple[int, int, str]:
    """Sort key: by place, errors before warnings."""
    return found.line, found.column, found.severity
