"""A chunked body is decoded as it arrives, and every byte of its framing is either right or refused.

By hand and not by llhttp, for two reasons: its extensions and trailers are bounded here, and the decoder
knows where the body ends, so that what follows it can be left to the next request. RFC 9112, section 7.1.
"""

from __future__ import annotations

import re

from wfserve.http.refusal import BadMessageError

MAX_LINE = 1024  # bytes of a size line with its extensions, or of a trailer
MAX_FRAMING = 16_384  # bytes of extensions and trailers in a whole body
_SIZE = re.compile(rb"([0-9A-Fa-f]{1,15})((?:[ \t]*;[\t\x20-\x7e\x80-\xff]*)?)")
_TRAILER = re.compile(rb"[!#$%&'*+.^_`|~0-9A-Za-z-]+:[\t\x20-\x7e\x80-\xff]*")
_BROKEN = re.compile(rb"(?<!\r)\n|\r[^\n]")


class Chunks:
    """The decoder of one body."""

    __slots__ = ("_framing", "_left", "_section", "done")

    def __init__(self) -> None:
        self.done = False
        self._left = 0  # bytes of the chunk that are still to come
        self._framing = 0  # bytes of extensions and trailers so far
        self._section = self._size

    def decode(self, data: bytes) -> tuple[bytes, bytes]:
        """Return the payload in `data`, and what is left: an unfinished line, or what follows the body.

        Raises `BadMessageError`; the body cannot be continued after that.
        """
        parts: list[bytes] = []
        position = 0
        while not self.done:
            following = self._section(data, position, parts)
            if following < 0:
                break
            position = following
        return b"".join(parts), data[position:]

    def _size(self, data: bytes, position: int, parts: list[bytes]) -> int:
        end = _line_end(data, position)
        if end < 0:
            return -1
        size = _SIZE.fullmatch(data, position, end)
        if size is None:
            raise BadMessageError
        self._account(len(size[2]))
        self._left = int(size[1], 16)
        self._section = self._payload if self._left else self._trailer
        return end + 2

    def _payload(self, data: bytes, position: int, parts: list[bytes]) -> int:
        part = data[position : position + self._left]
        if not part:
            return -1
        parts.append(part)
        self._left -= len(part)
        if not self._left:
            self._section = self._payload_end
        return position + len(part)

    def _payload_end(self, data: bytes, position: int, parts: list[bytes]) -> int:
        found = data[position : position + 2]
        if not b"\r\n".startswith(found):
            raise BadMessageError
        if len(found) < 2:
            return -1
        self._section = self._size
        return position + 2

    def _trailer(self, data: bytes, position: int, parts: list[bytes]) -> int:
        """Check a trailer and drop it: nothing that follows a body may change what its head said."""
        end = _line_end(data, position)
        if end < 0:
            return -1
        if end == position:
            self.done = True
        elif not _TRAILER.fullmatch(data, position, end):
            raise BadMessageError
        self._account(end - position)
        return end + 2

    def _account(self, framing: int) -> None:
        self._framing += framing
        if self._framing > MAX_FRAMING:
            raise BadMessageError


def _line_end(data: bytes, position: int) -> int:
    """Return where the line's CRLF is, -1 if it has not arrived."""
    end = data.find(b"\r\n", position, position + MAX_LINE + 2)
    if end < 0 and (len(data) - position > MAX_LINE + 1 or _BROKEN.search(data, position)):
        raise BadMessageError
    return end
