"""A Reader reads a copy: what was checked is what is used, whatever the other side writes meanwhile."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, TypeVar

from wfserve.errors import FrameError

if TYPE_CHECKING:
    import struct
    from collections.abc import Callable


Entry = TypeVar("Entry")


class Reader:
    """Reads a view from front to back, once. Raises `FrameError` rather than read past its end."""

    def __init__(self, view: memoryview) -> None:
        self._data = bytes(view)
        self._at = 0

    def take(self, fields: struct.Struct) -> tuple[Any, ...]:
        """Return the next fields."""
        return fields.unpack_from(self._data, self._advance(fields.size))

    def peek(self) -> int:
        """Return the next byte, and leave it where it is."""
        if self._at == len(self._data):
            raise FrameError("A message is cut short")
        return self._data[self._at]

    def raw(self, size: int) -> bytes:
        """Return the next `size` bytes."""
        at = self._advance(size)
        return self._data[at : at + size]

    def text(self, size: int, limit: int) -> str:
        """Return the next `size` bytes as text, if they are UTF-8 and not over `limit`."""
        if size > limit:
            raise FrameError(f"A text of {size} bytes is longer than its limit of {limit}")
        try:
            return self.raw(size).decode()
        except UnicodeDecodeError:
            raise FrameError("A text is not UTF-8") from None

    def times(self, count: int, least: int) -> range:
        """Return `range(count)` if that many things of at least `least` bytes can still follow."""
        if count * least > len(self._data) - self._at:
            raise FrameError(f"A message is too short for {count} entries")
        return range(count)

    def leading(self, decode: Callable[..., tuple[list[Entry], int]], *more: object) -> list[Entry]:
        """Return what `decode(data, start, *more)` makes of what comes next, and go on where that ends."""
        try:
            found, self._at = decode(self._data, self._at, *more)
        except ValueError as problem:
            raise FrameError(str(problem)) from None
        return found

    def finish(self) -> None:
        """Refuse anything that is left."""
        if self._at != len(self._data):
            raise FrameError("A message is followed by bytes that are not its own")

    def _advance(self, size: int) -> int:
        at, self._at = self._at, self._at + size
        if self._at > len(self._data):
            raise FrameError("A message is cut short")
        return at
