"""A reader turns the text of one setting into its value, or raises a `ConfigError` that names the key."""

from __future__ import annotations

import math
import re
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable

    Reader = Callable[[str, str], Any]  # of a key and its text

SECONDS_PER_MINUTE = 60
ENVELOPES = ("body", "json", "kserve", "kservev2")
METRICS_MODES = ("log", "prometheus", "legacy")


def count(key: str, text: str) -> int:
    """Read a whole number that is not negative."""
    if not re.fullmatch(r"\d{1,18}", text.strip(), re.ASCII):
        raise ConfigError(f"{key}: expected a whole number, not {text!r}")
    return int(text)


def microseconds(key: str, text: str) -> int:
    """Read a time of at most a second."""
    if (time := count(key, text)) > 1_000_000:
        raise ConfigError(f"{key}: expected at most 1000000 microseconds, not {text!r}")
    return time


def positive(key: str, text: str) -> int:
    """Read a whole number of at least 1."""
    if not (value := count(key, text)):
        raise ConfigError(f"{key}: expected at least 1")
    return value


def seconds(key: str, text: str) -> float:
    """Read a duration."""
    return _duration(key, text, "seconds")


def minutes(key: str, text: str) -> float:
    """Read a duration in minutes; return it in seconds."""
    return _duration(key, text, "minutes") * SECONDS_PER_MINUTE


def _duration(key: str, text: str, unit: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not (value >= 0 and math.isfinite(value * SECONDS_PER_MINUTE)):
        raise ConfigError(f"{key}: expected a number of {unit}, not {text!r}")
    return value


def flag(key: str, text: str) -> bool:
    """Read true or false, in any case."""
    if text.strip().lower() not in ("true", "false"):
        raise ConfigError(f"{key}: expected true or false, not {text!r}")
    return text.strip().lower() == "true"


def path(key: str, text: str) -> Path:
    """Read a path; a relative one starts in the working directory, `~` is somebody's home."""
    if "\0" in text:
        raise ConfigError(f"{key}: {text!r} cannot be a path")
    try:
        return Path(text.strip()).expanduser().absolute()  # workers have working directories of their own
    except RuntimeError:
        raise ConfigError(f"{key}: there is no such home directory: {text!r}") from None


def names(_key: str, text: str) -> tuple[str, ...]:
    """Read a comma separated list."""
    return tuple(part.strip() for part in text.split(",") if part.strip())


def patterns(key: str, text: str) -> tuple[str, ...]:
    """Read a comma separated list of regular expressions. A blank one, which matches no URL, allows none."""
    return tuple(pattern(key, each) for each in names(key, text)) or ("",)


def pattern(key: str, text: str) -> str:
    """Read a regular expression."""
    try:
        re.compile(text)
    except (re.error, OverflowError, RecursionError) as error:
        raise ConfigError(f"{key}: {text!r} is not a regular expression: {error}") from None
    return text


def verbatim(_key: str, text: str) -> str:
    """Read a text as it is: a password may end in a blank."""
    return text


def word(_key: str, text: str) -> str:
    """Read a text without the blanks around it."""
    return text.strip()


def envelope(key: str, text: str) -> str:
    """Read the name of a request envelope, none if it is blank."""
    return _one_of(key, text.strip(), ("", *ENVELOPES))


def metrics_mode(key: str, text: str) -> str:
    """Read a metrics mode, in any case."""
    return _one_of(key, "".join(text.lower().split()), METRICS_MODES)


def _one_of(key: str, text: str, choices: tuple[str, ...]) -> str:
    if text not in choices:
        listed = ", ".join(filter(None, choices))
        raise ConfigError(f"{key}: expected one of {listed}, not {text!r}")
    return text


def closest(name: str, candidates: tuple[str, ...]) -> str | None:
    """Return the candidate most like `name` (Ratcliff-Obershelp), or None when none is near."""
    return next(iter(get_close_matches(name, candidates, n=1, cutoff=0.75)), None)
