"""A request head is parsed whole or refused; there is no input or output here.

llhttp checks the grammar (published behaviour of its strict mode: bare LF, folded lines, control characters,
bad names, blanks before the colon, repeated or doubtful `Content-Length`, both length headers). What it lets
pass is checked here: versions and protocols that are not HTTP/1.0 or 1.1, several blanks in the request line,
the number and form of `Host`, transfer codings under 1.0, fragments, expectations.

A parser is made per head, 0.2 µs, and sees nothing but the head, 0.4 to 0.8 µs: so bodies need not pass
through it, and each head starts from nothing. The rest of `parse` is about 2 µs. A client that keeps its
connection mostly sends one head again and again: short ones are remembered, with what was worked out of them.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from urllib.parse import unquote

from httptools import HttpParserError, HttpParserInvalidMethodError, HttpParserUpgrade, HttpRequestParser

from wfserve.http.refusal import BadMessageError, ExpectationError, HeadTooLargeError, UnknownFeatureError

if TYPE_CHECKING:
    from wfserve.errors import WfserveError

END = b"\r\n\r\n"
SHORT = 1024  # bytes of a head that is remembered
REMEMBERED = 512  # heads
_ASGI = {"version": "3.0", "spec_version": "2.4"}
_SINGLE = (b"host", b"content-length", b"transfer-encoding", b"expect")
_VERSIONS = {b"HTTP/1.1": "1.1", b"HTTP/1.0": "1.0"}
_LENGTH = re.compile(rb"[0-9]{1,18}")
_HOST = re.compile(rb"[A-Za-z0-9._~!$&'()*+,;=%:\[\]-]*")
_ABSOLUTE = re.compile(rb"https?://([^/?]+)", re.IGNORECASE)
_METHOD = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+ ")
_UNSOUND = re.compile(rb"\A(?!\r\Z)[^A-Z]|\0|(?<!\r)\n|\r[^\n]")


class Head(NamedTuple):
    """A request without its body."""

    method: str
    http_version: str  # "1.0" or "1.1"
    headers: list[tuple[bytes, bytes]]  # names in lower case; not to be changed, nor is anything here
    scope: dict[str, Any]  # ASGI's; what the head does not say is None
    length: int | None  # of the body; None if it is chunked
    keep_alive: bool
    expects_continue: bool
    known: dict[Any, Any]  # what an application has worked out of the head alone, by what it likes


class _Collector:
    """What llhttp reports of one head."""

    __slots__ = ("headers",)

    def __init__(self) -> None:
        self.headers: list[tuple[bytes, bytes]] = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self.headers.append((name.lower(), value.rstrip(b" \t")))


def unsound(data: bytes, start: int = 0) -> bool:
    """Tell from a part of a head, looking from `start` on, that no head can become of it.

    This is what refuses a client that speaks something else before it has run into a timeout.
    """
    return _UNSOUND.search(data, start) is not None


def parse(raw: bytes, max_headers: int) -> Head:
    """Parse a head, which ends with its empty line.

    Raises `BadMessageError`, `HeadTooLargeError`, `UnknownFeatureError` or `ExpectationError`.
    """
    return _remembered(raw, max_headers) if len(raw) <= SHORT else _parse(raw, max_headers)


def _parse(raw: bytes, max_headers: int) -> Head:
    found = _Collector()
    headers = found.headers
    try:
        HttpRequestParser(found).feed_data(raw)
    except HttpParserUpgrade:
        pass  # an offer, and declined by being ignored
    except HttpParserError as error:
        raise _refusal(raw, headers, error) from None
    if len(headers) > max_headers:
        raise HeadTooLargeError(f"{max_headers} in number")
    method, target, version = _request_line(raw)
    length, keep_alive, expects_continue = _framing(headers, version)
    if not target.startswith(b"/") or b"#" in target:
        target = _unusual(target, method, headers)
    scope = _scope(method, version, target, headers)
    return Head(method, version, headers, scope, length, keep_alive, expects_continue, {})


def _scope(method: str, version: str, target: bytes, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    raw_path, _, query = target.partition(b"?")
    path = raw_path.decode("latin-1")
    return {
        "type": "http",
        "asgi": _ASGI,
        "http_version": version,
        "method": method,
        "scheme": "http",
        "path": unquote(path) if "%" in path else path,
        "raw_path": raw_path,
        "query_string": query,
        "root_path": "",
        "headers": headers,
        "client": None,
        "server": None,
        "extensions": None,
    }


_remembered = lru_cache(REMEMBERED)(_parse)  # a head that is refused is parsed anew each time


def _refusal(raw: bytes, headers: list[tuple[bytes, bytes]], error: HttpParserError) -> WfserveError:
    """Return what to answer where llhttp raised `error`."""
    if unsound(raw):
        return BadMessageError()
    if isinstance(error, HttpParserInvalidMethodError) and _METHOD.match(raw):
        return UnknownFeatureError("method")
    found = dict(headers)
    coding = found.get(b"transfer-encoding")
    if coding and b"content-length" not in found and b"chunked" not in coding.lower():
        return UnknownFeatureError("transfer coding")
    return BadMessageError()


def _request_line(raw: bytes) -> tuple[str, bytes, str]:
    """Return method, target and "1.0" or "1.1"; what llhttp let pass has no other form than this."""
    try:
        method, target, protocol = raw[: raw.index(b"\r\n")].split(b" ")
        version = _VERSIONS[protocol]
    except (ValueError, KeyError):
        raise BadMessageError from None
    if method == b"CONNECT":
        raise UnknownFeatureError("method")
    return method.decode("ascii"), target, version


def _unusual(target: bytes, method: str, headers: list[tuple[bytes, bytes]]) -> bytes:
    """Return path and query of a target that is not just those; an absolute one's authority replaces `Host`.

    RFC 9112, section 3.2.
    """
    if target == b"*" and method == "OPTIONS":
        return target
    absolute = _ABSOLUTE.match(target)
    if absolute is None or not _is_host(absolute[1]) or b"#" in target:
        raise BadMessageError
    headers[:] = [(name, absolute[1] if name == b"host" else value) for name, value in headers]
    rest = target[absolute.end() :]
    return rest if rest.startswith(b"/") else b"/" + rest


def _framing(headers: list[tuple[bytes, bytes]], version: str) -> tuple[int | None, bool, bool]:
    """Return the body's length (None: chunked), whether to keep the connection, and whether to send a 100."""
    found = dict(headers)
    if len(found) != len(headers):
        _join_repeated(headers, found)
    host = found.get(b"host")
    if not _is_host(host) if host is not None else version == "1.1":
        raise BadMessageError
    length = _length(found.get(b"content-length"), found.get(b"transfer-encoding"), version)
    if (expectation := found.get(b"expect")) is not None and expectation.lower() != b"100-continue":
        raise ExpectationError
    options = [option.strip() for option in found.get(b"connection", b"").lower().split(b",")]
    if version == "1.1":
        return length, b"close" not in options, expectation is not None
    return length, b"keep-alive" in options and b"close" not in options, False


def _join_repeated(headers: list[tuple[bytes, bytes]], found: dict[bytes, bytes]) -> None:
    """Refuse what may stand once only, and join the connection's options."""
    names = [name for name, _ in headers]
    if any(names.count(name) > 1 for name in _SINGLE):
        raise BadMessageError
    if b"connection" in found:
        found[b"connection"] = b",".join([value for name, value in headers if name == b"connection"])


def _length(length: bytes | None, coding: bytes | None, version: str) -> int | None:
    if coding is not None:
        if length is not None or version == "1.0":
            raise BadMessageError
        if coding.lower() != b"chunked":
            raise UnknownFeatureError("transfer coding")
        return None
    if length is None:
        return 0
    if not _LENGTH.fullmatch(length):
        raise BadMessageError
    return int(length)


@lru_cache(maxsize=256)
def _is_host(value: bytes) -> bool:
    return _HOST.fullmatch(value) is not None
