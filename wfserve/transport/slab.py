"""Rows of one slot are lent one behind the other, each once, so that what is published of them lies together.

A slab is one loan of the arena, cut into rows of one size. Its rows go out in order and never twice; who gets
one fills and publishes it like any loan. The slab keeps its slot while it lends, and until its last row has
been filled or given up; then what was published of it keeps the slot alone.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from wfserve.transport.base import Arena, Descriptor, Loan, Payload

BATCHES: Final = 4  # rows of a slab, in batches
SHARE: Final = 32  # a slab takes at most this part of the arena,
CROWDED: Final = 2  # and none is lent that would leave less than this part of it free
MOST_FILLING: Final = 4  # slabs with rows that are being filled: a slow sender keeps all of its slab
WORD: Final = 4  # bytes; bodies whose length is no multiple would have others' elements begin anywhere


class Slabs:
    """Lends rows for bodies of one size: the declared one, else whichever comes twice running."""

    def __init__(self, arena: Arena, batch_size: int, declared: int | None = None) -> None:
        """Have slabs of a few batches; `declared` is the size of a row (bytes), then no other is learned."""
        self._arena = arena
        self._limit = arena.statistics().limit_bytes
        self._rows = BATCHES * batch_size
        self._declared = declared
        self._last = 0  # size that was asked for
        self._asked = 0  # times, since nothing was under way
        self._in_company = True  # it was more than once before
        self._slab: _Slab | None = None
        self._before: list[_Slab] = []  # that lend no more, but have rows that are being filled

    def loan(self, nbytes: int) -> Loan:
        """Return a row if rows are of `nbytes`, else a slot of at least that.

        Raises `ServiceUnavailableError` when the arena's limit would be exceeded.
        """
        slab = self._slab_for(nbytes)
        return self._arena.loan(nbytes) if slab is None else slab.row()

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Return a copy of `data` as a payload, where `loan` would have lent. Raises as that does."""
        slab = self._slab_for(len(data))
        return self._arena.publish(header, data) if slab is None else slab.publish(header, data)

    def _slab_for(self, nbytes: int) -> _Slab | None:
        """Return the slab that has a row of `nbytes`, None if such are not lent in rows."""
        repeated, self._last = nbytes == self._last, nbytes
        self._asked += 1
        if self._slab is not None and self._slab.lends(nbytes):
            return self._slab
        learned = repeated and nbytes % WORD == 0
        fits = learned if self._declared is None else nbytes == self._declared
        if nbytes and fits and (self._in_company or self._asked > 1):
            self._end_slab()
            if len(self._before) < MOST_FILLING and (slab := self._next(nbytes)) is not None:
                self._slab = slab
                return slab
        return None

    def rest(self) -> None:
        """Hold nothing any more but rows that are being filled; for when no request is under way.

        If there was one alone since the last time, so will be the next: it gets no row, which would have no
        neighbours.
        """
        if self._asked:
            self._in_company, self._asked = self._asked > 1, 0
        self._end_slab()

    def _end_slab(self) -> None:
        if self._slab is not None:
            self._slab.end()
            self._before.append(self._slab)
            self._slab = None
        self._before = [slab for slab in self._before if slab.filling]

    def _next(self, nbytes: int) -> _Slab | None:
        """Return a slab for rows of `nbytes`, if there is room for several."""
        rows = min(self._rows, self._limit // SHARE // nbytes)
        if rows < 2 or self._arena.free_bytes < rows * nbytes + self._limit // CROWDED:
            return None
        return _Slab(self._arena.loan(rows * nbytes), nbytes, rows)


class _Slab:
    """One loan and how far it is lent; given back when it has ended and no row is being filled."""

    def __init__(self, loan: Loan, row_bytes: int, rows: int) -> None:
        self.loan = loan
        self._view: memoryview | None = loan.buffer  # which holds the slot
        self.filling = 0
        self._row_bytes = row_bytes
        self._lent = 0
        self._rows = rows
        self._ended = False

    def lends(self, nbytes: int) -> bool:
        """Whether there is a row of `nbytes`."""
        return self._row_bytes == nbytes and self._lent < self._rows and not self._ended

    def row(self) -> Row:
        """Lend the next row; the last one ends the slab."""
        self.filling += 1
        return Row(self, self._take(), self._row_bytes)

    def publish(self, header: bytes, data: bytes | bytearray) -> Payload:
        """Fill and publish the next row at once; the last one ends the slab."""
        assert self._view is not None  # as long as it lends
        start = self._take()
        self._view[start : start + self._row_bytes] = data
        payload = self.loan.publish(header, start, self._row_bytes)
        self._settle()
        return payload

    def _take(self) -> int:
        """Take the next row and return where it begins."""
        start = self._lent * self._row_bytes
        self._lent += 1
        self._ended = self._lent == self._rows
        return start

    def filled(self, *, published: bool) -> None:
        """Note that a row is lent no more; if the last of them was given up, nobody else may end the slab."""
        self.filling -= 1
        self._ended |= not published and not self.filling
        self._settle()

    def end(self) -> None:
        """Lend no more rows."""
        self._ended = True
        self._settle()

    def _settle(self) -> None:
        if self._ended and not self.filling:
            self._view = None
            self.loan.release()


class Row:
    """A row of a slab, writable until it is released: a `Loan`."""

    def __init__(self, slab: _Slab, start: int, nbytes: int) -> None:
        self._slab: _Slab | None = slab
        self._start = start
        self._published = False
        whole = slab.loan.descriptor
        self.descriptor: Descriptor = whole._replace(offset=whole.offset + start, length=nbytes)

    @property
    def buffer(self) -> memoryview:
        """The writable bytes; a view holds the slot. Raises `ValueError` after `release`."""
        return self._held().loan.buffer[self._start : self._start + self.descriptor.length]

    def publish(self, header: bytes, offset: int, length: int) -> Payload:
        """Publish a part; raises `ValueError` if it does not lie within the row, or after `release`."""
        loan = self._held().loan
        if offset < 0 or length < 0 or offset + length > self.descriptor.length:
            raise ValueError("The part does not lie within the memory")
        payload = loan.publish(header, self._start + offset, length)
        self._published = True
        return payload

    def release(self) -> None:
        """End the loan; idempotent."""
        slab, self._slab = self._slab, None
        if slab is not None:
            slab.filled(published=self._published)

    def __del__(self) -> None:
        self.release()

    def _held(self) -> _Slab:
        if self._slab is None:
            raise ValueError("The handle has been released")
        return self._slab
