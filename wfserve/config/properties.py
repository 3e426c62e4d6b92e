r"""Properties are read as `java.util.Properties` reads them, which is what wrote and read them so far.

`key=value`, `key: value` or `key value`; `#` and `!` begin comments; a `\` before the end of a line continues
it. `\t`, `\n`, `\r`, `\f` and `\uXXXX` stand for characters; before anything else a `\` is dropped: snapshots
of TorchServe have `http\://127.0.0.1\:8080`. White space after a value belongs to it. Beyond Java, a file may
be UTF-8; one that is not is ISO 8859-1.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BLANK = " \t\f"
_KEY = re.compile(r"(?:\\.|[^\\=: \t\f])*", re.DOTALL)
_SEPARATOR = re.compile(r"[ \t\f]*[=:]?[ \t\f]*")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|(.))", re.DOTALL)
_ENDS_IN_ESCAPE = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")
_CONTROLS = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


def read_properties(path: Path) -> dict[str, str]:
    """Return the properties in the file `path`. Raises `ConfigError` if it is not a file of them."""
    try:
        content = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read the configuration {path}: {error.strerror}") from None
    if b"\0" in content:
        raise ConfigError(f"cannot read the configuration {path}: it is not a text")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError:
        text = content.decode("iso-8859-1")
    return parse_properties(text)


def parse_properties(text: str) -> dict[str, str]:
    r"""Return what a text of properties says; the last of several values of a key counts.

    Raises `ConfigError` if a `\u` is not followed by four hexadecimal digits, or is half a character.
    """
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        key = _KEY.match(line)
        assert key is not None  # it matches nothing, too
        separator = _SEPARATOR.match(line, key.end())
        assert separator is not None
        found[_unescaped(key[0])] = _unescaped(line[separator.end() :])
    return found


def _logical_lines(text: str) -> Iterator[str]:
    """Give what has a key, in one piece. A comment ends with its line, whatever that ends with."""
    begun: str | None = None
    for natural in re.split(r"\r\n?|\n", text):
        line = natural.lstrip(_BLANK)
        if begun is None and (not line or line[0] in "#!"):
            continue
        line = (begun or "") + line
        continues = _ENDS_IN_ESCAPE.search(line) is not None
        begun = line[:-1] if continues else None
        if not continues and line:
            yield line
    if begun:
        yield begun


def _unescaped(text: str) -> str:
    def character(match: re.Match[str]) -> str:
        if match[1]:
            return chr(int(match[1], 16))
        if match[2] == "u":
            raise ConfigError(r"the configuration has a \u that is not followed by four hexadecimal digits")
        return _CONTROLS.get(match[2], match[2])

    plain = _ESCAPE.sub(character, text)
    try:
        return plain.encode("utf-16", "surrogatepass").decode("utf-16")  # Java writes 16 bits at a time
    except UnicodeDecodeError:
        raise ConfigError(r"the configuration has a \u that is half a character") from None
