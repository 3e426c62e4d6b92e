"""Every decision about queues, batches and retries, as pure functions over plain data.

The shell (`dispatch.py`) only carries them out. What happens to the items of a batch:

    event                                   batch of one          batch of several
    the handler raised for the batch        FAIL (charged)        SPLIT in halves, uncharged
    the handler raised for one item         FAIL (charged)        FAIL that item
    the worker died, or was stopped         FAIL (charged)        ALONE, one by one, uncharged

and to one attempt whose `timeout-ms` has passed:

    it is queued                            WITHDRAW (charged): nothing has started
    its batch is younger than timeout-ms    ABANDON (charged): the batch goes on, this result is dropped;
                                            if it was not alone, its next attempt will be, on a fresh timer
    its batch has run for timeout-ms        STOP the worker; then as above: nobody can know which item hangs

and to what waits, when a worker is idle (`next_batch`):

    it is enough for a batch, or no more is known to be coming              it goes
    waiting for what comes would not end all of it earlier, on average      it goes
    otherwise                                                               it waits for what comes, but never
                                                                            beyond max-batch-delay

That is asked once for all that arrives in one tick of the scheduler, and earlier by `at_once`. While the only
worker is busy, what would gain nothing by waiting here is sent to wait there (`ahead`).
"""

from __future__ import annotations

import enum
import math
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.scheduling.cost import Cost

TIMER_SLACK = 0.1  # of timeout-ms: a queue wait this short does not count as waiting
HOP_SECONDS = 0.002  # of work that one hop to a worker may carry, where calls are made one by one
MOST_CALLS = 32
NEGLIGIBLE = 1 / 32  # of an item's cost: its share of α in a batch that is large enough
AHEAD = 0.005  # seconds: what is sent to a replica that is busy takes no longer, and is to begin by then
LATENESS = 1.25  # of the time until something is expected: how long it is waited for
PROBE_SECONDS = 1.0  # without news of what a batch takes, after which one is tried rather than refused
EQUALS_SECONDS = 1.0  # of deadlines that nobody asked for: priorities order what lies within
LONELY = 16  # batches in a row that nobody was beside or behind, after which the next is expected to be so
DEFAULT_PRIORITY = 5
HIGHEST_PRIORITY = 9


class Failure(enum.Enum):
    """What becomes of the items of a batch that did not succeed."""

    FAIL = "fail"
    SPLIT = "split"
    ALONE = "alone"


class Expiry(enum.Enum):
    """What becomes of an attempt whose time is up."""

    WITHDRAW = "withdraw"
    ABANDON = "abandon"
    STOP = "stop"


def after_error(size: int, *, splittable: bool, isolate: bool) -> Failure:
    """Decide for a batch of `size` items whose handler raised; `isolate` permits running items again."""
    return Failure.SPLIT if splittable and isolate and size > 1 else Failure.FAIL


def after_loss(size: int, *, isolate: bool) -> Failure:
    """Decide for a batch of `size` items whose worker died or was stopped."""
    return Failure.ALONE if isolate and size > 1 else Failure.FAIL


def after_timeout(started: float | None, now: float, timeout: float) -> Expiry:
    """Decide for an attempt whose time is up; `started` is when its batch did, None while it is queued."""
    if started is None:
        return Expiry.WITHDRAW
    return Expiry.STOP if now >= started + timeout else Expiry.ABANDON


def running_deadline(deadline: float, started: float, timeout: float, *, afresh: bool) -> float:
    """Return when an attempt with `deadline` times out, now that its batch has `started`.

    An attempt that hardly waited ends with its batch, so that all the attempts of a batch that hangs
    end at one moment, by one decision. The timer of one that is run again, uncharged, or that a worker was
    started for, starts `afresh`.
    """
    end = started + timeout
    return end if afresh or end - deadline <= TIMER_SLACK * timeout else deadline


def next_look(until: float, now: float, behind: Sequence[float]) -> float:
    """Return when to look at a running attempt again, whose step may take `until` then.

    The steps behind it, with their timeouts, begin unnoticed; looking after the shortest of them finds each
    that hangs at the moment that its own time is up, or before.
    """
    return min(until, now + min(behind)) if behind else until


def rerun_deadline(now: float, ahead: int, timeout: float, startup: float) -> float:
    """Return until when an attempt may wait to be run again, behind `ahead` parts.

    Each of those may hang for `timeout`, and a worker may have to load first; what waits longer than that
    waits for workers that do not come.
    """
    return now + (ahead + 1) * (timeout + startup)


def calls_per_hop(seconds: float | None, further: float | None = None) -> int:
    """Return how many calls of `seconds` each go to a worker together, where it makes them one by one.

    A hop costs as much as a few cheap calls, and a worker has to begin with each, so they share both; what
    takes long goes alone, since the first of a hop waits for the last. One that was never measured goes
    alone. `further` is what a call adds to a hop that is made anyway, if that is known.
    """
    if seconds is None:
        return 1
    each = seconds if further is None else min(seconds, further)
    return max(1, min(MOST_CALLS, int(HOP_SECONDS / max(each, 1e-6))))


def at_once(waiting: int, idle: int, lonely: int) -> bool:
    """Whether what has just arrived may go before others of its tick have: none is expected.

    With it, `waiting` wait for one of `idle` replicas; before it, `lonely` batches in a row were of one item
    that nobody waited behind when it ended. Two clients that take turns would else never share a batch.
    """
    return lonely >= LONELY and waiting == 1 and idle > 0


class Waiting(NamedTuple):
    """What could go in one batch now. Times are the clock's."""

    items: int  # at least 1
    oldest: float  # when the first of them arrived
    deadline: float  # the earliest of theirs; infinity if none has one


class Coming(NamedTuple):
    """What is known to be on its way to a stage."""

    items: int = 0
    at: float = math.inf  # when it is expected


class Decision(NamedTuple):
    """A batch of `size` goes now; or, with none, look again at `until` at the latest."""

    size: int
    until: float = math.inf


def next_batch(
    waiting: Waiting, coming: Coming, cost: Cost, now: float, *, limit: int, delay: float
) -> Decision:
    """Decide what an idle worker takes: of at most `limit` items, none waits longer than `delay` for others.

    The batch ends before the earliest deadline, as far as its size can see to that.
    """
    most = _within_deadline(min(waiting.items, limit), waiting.deadline - now, cost)
    size = _worthwhile(most, cost)
    if size < waiting.items or size >= limit or not coming.items or not cost.known:
        return Decision(size)
    more = min(coming.items, limit - size)
    due = abs(coming.at - now)  # what is overdue takes as long again, for all one knows
    if not _pays(size, more, due, cost):
        return Decision(size)
    until = min(now + LATENESS * due, waiting.oldest + delay, waiting.deadline - cost.of(size + more))
    return Decision(0, until) if until > now else Decision(size)


class Occupied(NamedTuple):
    """The only replica, which could be given its next batch before it has ended the one that it runs."""

    until: float  # when that is expected to end
    gap: float  # seconds from the end of a batch to the beginning of one that is sent then


def ahead(waiting: Waiting, replica: Occupied, cost: Cost, work: Cost, now: float, *, limit: int) -> int:
    """Return how many of what waits an occupied replica is given now, to begin with then; 0: nothing yet.

    Who waits there can neither be overtaken nor share a batch with who comes later. So all of it is a matter
    of milliseconds, nobody's deadline is in danger, and the batch is full; or else α, which later ones might
    have shared, costs the replica (`work`) no more than the gap, and no more than the items do.
    """
    size = _worthwhile(min(waiting.items, limit), cost)
    if not (ends_soon(replica, now) and cost.known and work.known) or work.of(size) > AHEAD:
        return 0
    if size < limit and not (work.apart and work.alpha <= min(replica.gap, work.beta * size)):
        return 0
    return size if max(now, replica.until) + cost.of(size) <= waiting.deadline else 0


def ends_soon(replica: Occupied, now: float) -> bool:
    """Whether an occupied replica is to be free soon; of one that is long overdue nobody knows when."""
    return abs(replica.until - now) <= AHEAD


def _within_deadline(size: int, left: float, cost: Cost) -> int:
    """Return how many of `size` items may go together; one goes, whatever is left."""
    if left == math.inf or not cost.known or cost.of(size) <= left:
        return size
    return max(1, min(size, cost.most_within(left)))


def _worthwhile(size: int, cost: Cost) -> int:
    """Return how many of `size` items go together: at least half, no more than something is saved by.

    Who comes first then need not wait until all have been computed.
    """
    if not (cost.known and cost.apart and cost.beta > 0):
        return size
    enough = math.ceil(cost.alpha / (NEGLIGIBLE * cost.beta))
    return min(size, max(enough, size - size // 2))


def _pays(size: int, more: int, due: float, cost: Cost) -> bool:
    """Whether `size` that wait and `more` that come in `due` seconds end earlier in one batch, on average."""
    together = (size + more) * (due + cost.of(size + more))
    first = cost.of(size)
    return together < size * first + more * (max(first, due) + cost.of(more))


def expected_end(ahead: int, left: float, cost: Cost, now: float, *, workers: int, limit: int) -> float:
    """Return when an item is expected to end that arrives now, with `ahead` items before it in line.

    `left` is when the first of `workers`, all busy, is expected to take its next batch; now, if one is idle.
    """
    rounds, last = divmod(ahead, limit * max(1, workers))
    return max(left, now) + rounds * cost.of(limit) + cost.of(min(limit, last + 1))


def refused(end: float, deadline: float, cost: Cost, now: float) -> bool:
    """Whether what is expected to end after its deadline is refused at once.

    Nothing is on the grounds of few batches, nor of old ones: one slow call must not refuse for ever.
    """
    return end > deadline and cost.known and now - cost.last < PROBE_SECONDS


def urgency(deadline: float, priority: int, *, asked_for: bool) -> tuple[float, int]:
    """Return what waiting items are ordered by, the least first: deadlines, then priorities.

    Deadlines that no client has `asked_for` differ by when the requests came, and say no more than that: they
    are equals if they lie in the same second, and come behind those in it that were asked for.
    """
    if not asked_for and deadline < math.inf:
        deadline = math.ceil(deadline / EQUALS_SECONDS) * EQUALS_SECONDS
    return deadline, -priority


def split(size: int) -> tuple[int, int]:
    """Return the sizes of the two halves that a failed batch of `size` (at least 2) is run again in."""
    return size - size // 2, size // 2
