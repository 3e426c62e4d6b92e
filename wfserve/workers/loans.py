"""What is said about workers that are lent: by whom that keeps them, and by front ends that borrow them.

    Open ──▶ Offered … Opened ──▶ Offered …        of one pool, from its number on
    Want ──▶ more are started, or some Recalled    Recalled ──▶ Returned, when its batch has ended
    Offered ──▶ Refused, and offered again
    Kill ──▶ the worker dies, and is Returned      Close ──▶ nothing of the pool is used any more

A loan is one worker lent to one front end. Its number is used once, so that what crosses on the way means
nothing else than it did when it was sent.
"""

from __future__ import annotations

from typing import NamedTuple


class Offered(NamedTuple):
    """A worker that may be used; its rings' descriptors and its pidfd come along."""

    pool: int
    loan: int
    replica: int
    pid: int
    started: float  # seconds since the epoch


class Opened(NamedTuple):
    """All workers have been offered that the pool had when it was opened."""

    pool: int


class Recalled(NamedTuple):
    """A worker is to be returned as soon as it has answered."""

    pool: int
    loan: int


class Settled(NamedTuple):
    """The pool has the workers that are wanted, or one of them could not load."""

    pool: int
    ticket: int
    step: int = 0
    failure: str | None = None


class Unloadable(NamedTuple):
    """A worker of the pool could not load; it is tried again."""

    pool: int
    reason: str


class Open(NamedTuple):
    """A front end uses a pool from now on."""

    pool: int
    wanted: int


class Close(NamedTuple):
    """A front end uses a pool no more, and has returned all of its workers."""

    pool: int


class Want(NamedTuple):
    """A front end would like to have that many workers, and will return some in any case."""

    pool: int
    wanted: int
    spared: tuple[int, ...]  # loans


class Returned(NamedTuple):
    """A worker has forgotten the front end, or is dead."""

    pool: int
    loan: int
    dead: bool


class Refused(NamedTuple):
    """A worker cannot be used: its descriptors did not arrive, as the front end has no room for more."""

    pool: int
    loan: int


class Kill(NamedTuple):
    """A worker has to die: its batch has hung, or it breaks the rules."""

    pool: int
    loan: int


class Settle(NamedTuple):
    """A front end wants to be told when the pool has the workers that are wanted."""

    pool: int
    ticket: int


ToFront = Offered | Opened | Recalled | Settled | Unloadable
FromFront = Open | Close | Want | Returned | Refused | Kill | Settle
