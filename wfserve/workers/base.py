"""The stage-pool contract: batches of items go in, one outcome an item comes out, exactly once.

`dag`, `scheduling` and `registry` know workers only through this file: items, opaque payload handles, and
a way to stop a batch. How payloads move (shared memory here) and where replicas live is the pool's own
business. `pool.ProcessPool` runs child processes; `fake.FakePool` runs functions in the same process for
tests on a virtual clock; `tests/workers/test_conformance.py` holds for both.

A pool is told what to do by plain calls that never block, and answers through its `Listener`:

    submit(items) ──▶ Batch ──┬─▶ batch_done(batch, outcomes)   the replica answered, an outcome an item
                              └─▶ batch_lost(batch, why)        it died, was stopped, or the pool closed;
                                                                or the batch was withdrawn

A replica that runs a batch may be given one more, which waits there and begins as soon as the first has
ended: nobody needs to be told first. Until then it has not `begun`, and is not to blame if the replica dies.

A replica runs the nodes of a stage one after the other: its steps, mostly one. A batch begins with one step
and ends with one, for all of its items. Whatever happens to an item on the way, it need not begin again: the
input of the step that it had reached comes back with it.

Every batch gets one of the two, once, before the pool has closed, and never within `submit` or `stop`. From
`submit` on the pool holds shares of all payloads of the batch, until it has reported: whoever submitted may
release its own at any moment. A replica that dies is replaced until the pool closes or `scale` has made it
one too many; a closing pool is idle in none of its replicas.
"""

from __future__ import annotations

import math
from collections.abc import Sequence  # noqa: TC003 - compiled classes look at the types of their fields
from dataclasses import dataclass, field
from functools import lru_cache
from typing import NamedTuple, Protocol

from wfserve.errors import WfserveError
from wfserve.transport.base import Payload  # noqa: TC001 - as above
from wfserve.transport.frame import likeness_key, shape_key
from wfserve.transport.message import Form as Form


class Terms(NamedTuple):
    """By when a request is to be answered (trio clock), and what its items are ordered by where they wait."""

    deadline: float = math.inf  # after which nobody would wait
    order: tuple[float, int] = (math.inf, 0)  # `scheduling.policy.urgency`: the least goes first
    asked: float = math.inf  # the deadline, if the client has asked for it


NO_TERMS = Terms()
ROUTES = 256  # that are remembered


class ItemRoute(NamedTuple):
    """What all items of a batch have in common."""

    first: int
    last: int
    direct: bool
    form: Form


_route = lru_cache(ROUTES)(ItemRoute)  # a few for each stage; it is asked for several times an item


class Tenant:
    """One of several nodes that share the replicas of a pool: no batch is of more than one."""

    def __init__(self, name: str, place: bytes) -> None:
        """`name` is its registered name, and `place` what a replica is told of it with each batch."""
        self.name = name
        self.place = place


@dataclass(slots=True, eq=False)
class Item:
    """One job of one request at one stage. The pool shares what it needs of the payloads.

    It owns none of them but what it has `reached`: whoever made it calls `forget` in the end.
    """

    request_id: str  # a UUID: a new one, as every node job of TorchServe has, or the request's own
    headers: Payload  # the client's headers, a JSON list of [name, value]
    inputs: tuple[tuple[int, Payload], ...]  # (index of the parent node, what it returned), in arrival order
    first: int = 0  # step to begin with
    last: int = 0  # step to end with
    direct: bool = False  # a client's call of this node alone: its body comes in, what leaves comes out
    alone: bool = (
        False  # to be run by itself: an attempt beside others was given up, and one of them may hang
    )

    form: Form = Form.WHOLE
    terms: Terms = NO_TERMS  # of its request
    reached: Payload | None = None  # the input of its first step, where that is not the stage's
    tenant: Tenant | None = None  # the node that it is for, where several share the stage
    _shapes: tuple[bytes, ...] | None = field(default=None, init=False, repr=False)  # once asked for

    @property
    def route(self) -> ItemRoute:
        """Return what all items of a batch have in common."""
        return _route(self.first, self.last, self.direct, self.form)

    @property
    def shapes(self) -> tuple[bytes, ...]:
        """Return something that is equal for items whose tensors have equal types and shapes."""
        if self._shapes is None:
            self._shapes = tuple([shape_key(payload.header) for _, payload in self.inputs])
        return self._shapes

    @property
    def likeness(self) -> tuple[bytes, ...]:
        """Return something that differs for items that may not fit into one tensor, as far as is known."""
        return tuple([likeness_key(payload.header) for _, payload in self.inputs])

    def advance(self, step: int, reached: Payload) -> None:
        """Begin with `step` from now on, whose input is `reached`, which the item owns now."""
        self.forget()
        self.first, self.reached = step, reached
        self.inputs, self._shapes = ((0, reached),), None

    def forget(self) -> None:
        """Release what has been reached; idempotent."""
        if self.reached is not None:
            self.reached.release()
            self.reached = None


class Done(NamedTuple):
    """The node returned a value; whoever receives this owns the handle."""

    payload: Payload
    response: bytes = b""  # status, content type and headers the handler set: JSON, empty if it set none

    def release(self) -> None:
        """Give the value up."""
        self.payload.release()


@dataclass(frozen=True, slots=True)
class Failed:
    """The node raised, or returned something that cannot be sent on."""

    error: WfserveError
    splittable: bool = True  # the whole batch failed as one: its parts may do better alone
    step: int = 0  # that failed
    reached: Payload | None = None  # its input, if that is not the item's; whoever receives this owns it


@dataclass(frozen=True, slots=True)
class Parts:
    """The inputs of items of form `PART` that a divisible item became; whoever receives this owns them."""

    payloads: tuple[Payload, ...]  # in order

    def release(self) -> None:
        """Give all of them up."""
        for payload in self.payloads:
            payload.release()


Outcome = Done | Failed
Report = Done | Failed | Parts  # what a replica says of an item


class Ran(NamedTuple):
    """What one step of a batch took (seconds), of how many items, and what its handler recorded."""

    busy: float = 0.0
    items: int = 0
    metrics: bytes = b""  # JSON (`measure.recorded`), or empty
    copies: int = 0  # made of the items' inputs on their way to the handler


class Whereabouts(NamedTuple):
    """Which step a batch is at, and for how long it has been with the item that it is at (seconds)."""

    step: int
    seconds: float
    waited: float = 0.0  # for others' batches, before the replica began with it (seconds)


@dataclass(slots=True, eq=False)
class Batch:
    """Items that a replica runs together; identity is the object's."""

    items: Sequence[Item]
    started: float  # trio clock, seconds
    replica: object | None = field(default=None, repr=False)
    kind: object | None = None  # the listener's: what it learns from batches by
    until: float = math.inf  # the listener's: when it has taken as long as it may
    ran: Sequence[Ran] = ()  # a step each from the first on, once it is done
    lost_at: int = 0  # step, once it is lost
    submitted: float = -math.inf  # trio clock, seconds; `started` is later where it had to wait
    begun: bool = True  # False while it waits for others; once it is lost: nothing of it was to blame
    behind: bool = False  # it was submitted to wait behind another
    next: Batch | None = None  # that its replica begins with when this one has ended
    reached: dict[int, Payload] = field(default_factory=dict)  # inputs of that step by item; the listener's

    @property
    def busy(self) -> float:
        """Return the seconds that the replica worked on it."""
        return sum(step.busy for step in self.ran)


class Listener(Protocol):
    """What a pool tells its stage. Called from the pool's tasks; must not block or raise."""

    def batch_done(self, batch: Batch, outcomes: Sequence[Report]) -> None:
        """Report that `batch` ended, an outcome for every item, in order; the listener owns what they hold.

        Its replica is idle again, unless it has been stopped meanwhile, or has begun with the batch's `next`.
        """

    def batch_lost(self, batch: Batch, reason: str) -> None:
        """Report that nothing of `batch` runs any more: its replica is dead, or has not begun with it."""

    def replica_ready(self) -> None:
        """Report that a replica became idle other than by finishing a batch: it has just been loaded."""

    def replica_failed(self, reason: str) -> None:
        """Report that a replica could not load; it is tried again, after a while if that happens often."""


class LoadError(WfserveError):
    """A replica could not load the handler or model of one of its steps; says why, for the log."""

    def __init__(self, message: str, step: int = 0) -> None:
        super().__init__(message)
        self.step = step


@dataclass(frozen=True, slots=True)
class ReplicaStatus:
    """One replica, as `GET /models/{name}` shows it."""

    id: str
    pid: int  # 0 while there is no process
    state: str  # STARTING, READY, BUSY, BACKING_OFF or LEAVING
    started: float  # seconds since the epoch


@dataclass(frozen=True, slots=True)
class PoolStatistics:
    """Counts since the pool opened, and what is there now."""

    replicas: Sequence[ReplicaStatus]  # those that leave included
    idle: int
    running: int
    wanted: int  # replicas that do not leave
    deaths: int  # of replicas; leaving and closing the pool do not count
    batches: int  # that were answered
    batches_lost: int
    begun: int = 0  # of those that run: others wait for batches of other processes


class Pool(Protocol):
    """Replicas of one stage. Opened by the implementation's own async context manager."""

    @property
    def idle(self) -> int:
        """Replicas that would take a batch now."""

    def submit(self, items: Sequence[Item], behind: Batch | None = None) -> Batch:
        """Give `items` (at least one) to an idle replica, which the caller has checked there is.

        Or, to wait there, to the replica that runs the batch `behind`, if it `takes_another`.
        Raises `ServiceUnavailableError` when there is no memory to lend; nothing has been started then.
        """

    def takes_another(self, batch: Batch) -> bool:
        """Whether the replica that runs `batch` would have one more wait behind it."""

    def whereabouts(self, batch: Batch) -> Whereabouts | None:
        """Return how far a running `batch` is; None if it is known to run, and no more."""

    def stop(self, batch: Batch) -> None:
        """Kill the replica that runs `batch`; `batch_lost` follows once it is dead.

        Unless it has answered already: then `batch_done` does. Does nothing once the batch has been reported,
        or while it waits behind another.
        """

    def withdraw(self, batch: Batch) -> None:
        """Have `batch`, which nobody waits for, be lost at its turn if it still waits for others' then.

        One that has begun goes on.
        """

    def scale(self, wanted: int) -> None:
        """Have `wanted` replicas from now on, and let go of those that are too many.

        `replica_ready` follows for each new one that has loaded. Those that do least leave first, of idle
        ones those that have been so longest: at once where nothing runs, else as soon as the batch has been
        reported. Does nothing in a closing pool.
        """

    async def settled(self) -> None:
        """Return when all replicas that are wanted have loaded and all others have gone.

        Raises `LoadError` when one fails to load meanwhile (the pool goes on trying), and
        `ServiceUnavailableError` if the pool closes.
        """

    def statistics(self) -> PoolStatistics:
        """Return counts and replicas."""
