"""A response leaves with exactly one framing, and with headers that are one line each, or not at all.

One join makes a small response's head. Headers mostly repeat from one response to the next: their lines are
remembered, so that a lookup a header stands for checking and joining it.
"""

from __future__ import annotations

from functools import lru_cache
from http import HTTPStatus
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    Bytes = bytes | bytearray | memoryview

CR, LF, NUL = b"\r\n\0"  # as numbers: Python looks for one in a third of the time that b"\r" takes
_NAME_CHARACTERS = frozenset(b"!#$%&'*+-.^_`|~0123456789abcdefghijklmnopqrstuvwxyz")
_PHRASES = {status.value: status.phrase for status in HTTPStatus}
_FRAMING = frozenset({b"content-length", b"transfer-encoding", b"connection", b"date"})
_EACH_ITS_OWN = b"x-request-id"  # whose lines would only push the others out
_REMEMBERED = 1024  # lines
_SHORT = 128  # bytes of a value that is remembered


@lru_cache(maxsize=256)
def _status_line(status: int) -> bytes:
    if not 200 <= status <= 999:
        raise ValueError(f"{status} is no status of a final response")
    return b"HTTP/1.1 %d %b\r\n" % (status, _PHRASES.get(status, "").encode("ascii"))


@lru_cache(maxsize=1024)
def _label(name: bytes) -> bytes | None:
    """Return the start of a header's line, None where the server has its own; raises `ValueError`."""
    lower = name.lower()
    if lower in _FRAMING:
        return None
    if not lower or not _NAME_CHARACTERS.issuperset(lower):
        raise ValueError(f"{name!r} is no header name")
    return lower + b": "


def _line(name: bytes, value: bytes) -> bytes | None:
    """Return a header as its line, None where the server has its own; raises `ValueError` if it is none."""
    label = _label(name)
    return None if label is None else label + _sound(value) + b"\r\n"


def _sound(value: bytes) -> bytes:
    if LF in value or CR in value or NUL in value:
        raise ValueError(f"the response header {value!r} is more than one line")
    return value


_remembered = lru_cache(_REMEMBERED)(_line)


class Response:
    """How one response is framed. `keep_alive` ends up as whether the connection can carry another."""

    __slots__ = ("_chunked", "_http_1_0", "_left", "_method_head", "_silent", "keep_alive")

    def __init__(self, method: str, http_version: str, *, keep_alive: bool) -> None:
        self.keep_alive = keep_alive
        self._http_1_0 = http_version == "1.0"
        self._method_head = method == "HEAD"
        self._silent = self._method_head  # the body is not sent
        self._chunked = False
        self._left: int | None = None  # bytes of the body that are still owed, if their number was declared

    def head(
        self, status: int, headers: Iterable[tuple[bytes, bytes]], whole: int | None, date: bytes
    ) -> bytes:
        """Return status line and headers.

        `whole` is the length of the body if all of it is known, `date` the header line to add. Raises
        `ValueError` if a header is not one.
        """
        lines: list[bytes] = [_status_line(status)]
        length, ours = None, date
        for name, value in headers:
            unique = name == _EACH_ITS_OWN or len(value) > _SHORT
            line = _line(name, value) if unique else _remembered(name, value)
            if line is not None:
                lines.append(line)
            elif (lower := name.lower()) == b"content-length":
                length = _length(value, length)
            elif lower == b"connection":
                self.keep_alive &= b"close" not in value.lower()
            elif lower == b"date":
                ours = b"date: %b\r\n" % _sound(value)
        lines += (ours, self._framing(status, length, whole))
        return b"".join(lines)

    def _framing(self, status: int, length: int | None, whole: int | None) -> bytes:
        """Decide how the body's end will be known; return the last headers and the empty line."""
        if status in (204, 304):
            self._silent = True
            framing = b""
        elif length is not None or (whole is not None and not self._method_head):
            self._left = length if length is not None else whole
            framing = b"content-length: %d\r\n" % (self._left or 0)
        elif self._method_head:
            framing = b""
        elif self._http_1_0:
            self.keep_alive = False
            framing = b""
        else:
            self._chunked = True
            framing = b"transfer-encoding: chunked\r\n"
        if not self.keep_alive:
            return framing + b"connection: close\r\n\r\n"
        return framing + b"connection: keep-alive\r\n\r\n"  # HTTP/1.1 does without, TorchServe does not

    def part(self, body: Bytes, *, more: bool) -> Sequence[Bytes]:
        """Return what goes on the wire for a part of the body.

        Raises `ValueError` where it is more than the head declared. One that ends short of it costs the
        connection, which is the only way to tell the client.
        """
        if self._silent:
            return ()
        if self._chunked:
            end: tuple[bytes, ...] = () if more else (b"0\r\n\r\n",)
            return (b"%x\r\n" % len(body), body, b"\r\n", *end) if len(body) else end
        if self._left is not None:
            self._left -= len(body)
            if self._left < 0:
                raise ValueError("the response's body is longer than its content-length")
            if self._left and not more:
                self.keep_alive = False
        return (body,) if len(body) else ()


def _length(value: bytes, before: int | None) -> int:
    if not value.isdigit() or before not in (None, int(value)):
        raise ValueError(f"{value!r} is no content-length")
    return int(value)
