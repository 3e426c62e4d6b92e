"""How many replicas a pool should have: decided by what waits, has waited and has run, and nothing else.

It grows at once, by either of two signs, while no replica is idle and none is starting:

    what has waited     for STANDING seconds most of what was taken had waited too long: one more
    what will wait      by the learned cost, the present replicas need more than DRAIN seconds for what waits:
                        as many as would take it within that, but no more than there are batches for them

The first is the standing queue of CoDel (K. Nichols, V. Jacobson, "Controlling Queue Delay", ACM Queue 10(5),
2012): a queue that a burst has made empties within an interval, and only one that does not shows that there
are too few to serve it. As there, no wait is too long that is shorter than what is served (half of it, here).
Most of the items are asked instead of the luckiest one, as some always find a replica that has just finished.

It shrinks late, to the most that any moment of a window has asked for, as autoscalers do that must not flap
(K. Rzadca et al., "Autopilot: workload autoscaling at Google", EuroSys 2020). A moment asks for all there are
if something has waited too long, else for as many as were busy at once, or for so few that they would be
IN_USE of their time. So a load that swings faster than the window starts a replica once, and one that was
added stays for a window at least.
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.scheduling.settings import StageSettings

STANDING = 0.25  # seconds
PAUSE = 0.05  # seconds without anything that waits, after which a queue has been empty
TARGET = 0.002  # seconds that an item may always wait: about what a hop with others takes
LONGEST_TARGET = 0.25  # … and at the most, however long a batch takes
DRAIN = 0.5  # seconds
IN_USE = 0.7  # of a replica's time
SLICE, SHORTEST_SLICE = 1.0, 0.01  # seconds, over which its use is averaged


class Load(NamedTuple):
    """What a pool has to do at a moment. Times are seconds."""

    batches: int = 0  # that what waits would make
    work: float = 0.0  # that what waits is expected to be, for one replica; 0 if that is not known
    stood: float = 0.0  # for how long most had to wait too long
    busy: int = 0  # replicas
    idle: int = 0  # replicas
    peak: int = 0  # replicas that the last seconds have asked for


def replicas_wanted(load: Load, present: int, minimum: int, maximum: int, *, scarce: bool = False) -> int:
    """Return how many replicas a pool should have that has `present`, with those that are starting.

    While memory is `scarce` those above `minimum` go that run nothing, and none is added but the first.
    """
    if scarce:
        maximum = min(maximum, max(minimum, load.busy, min(1, load.batches)))
    kept = present if load.batches else max(load.busy, min(load.peak, present))
    return max(minimum, min(maximum, max(kept, _grown(load, present))))


def _grown(load: Load, present: int) -> int:
    """Return how many replicas could make use of being there."""
    if not load.batches or load.idle or load.busy < present:
        return 0
    by_work = min(load.batches, math.ceil(load.work / DRAIN))
    return max(1, by_work, present + (load.stood >= STANDING))


def replicas_kept(wanted: int, minimum: int, maximum: int) -> int:
    """Return how many of `wanted` replicas a pool should have once its bounds have been changed."""
    return max(minimum, min(wanted, maximum))


def too_long(lasts: float) -> float:
    """Return from which wait on items wait too long whose batch is expected to last that long (seconds)."""
    return max(TARGET, min(lasts, LONGEST_TARGET) / 2)


class Standing:
    """Since when most of what a pool was given had waited too long. Moments are the caller's clock's."""

    def __init__(self) -> None:
        self._since = math.inf
        self._emptied = -math.inf  # when the last batch was taken: what has come since waits for the next
        self._late = self._all = 0.0  # items of the last STANDING seconds, older ones forgotten exponentially

    def took(self, items: int, arrived: float, lasts: float, now: float) -> bool:
        """Note a batch that leaves now, when its first item had `arrived`, and how long it may last.

        Return whether that item has waited too long.
        """
        late = now - arrived >= too_long(lasts)
        kept = math.exp((self._emptied - now) / STANDING)
        self._late, self._all = self._late * kept + items * late, self._all * kept + items
        self._since = self.since(arrived) if self._late >= self._all / 2 else math.inf
        self._emptied = now
        return late

    def since(self, oldest: float) -> float:
        """Return since when most had to wait, if what has waited longest came at `oldest`.

        Where nothing had come for PAUSE seconds, it begins anew.
        """
        return min(self._since, oldest) if oldest - self._emptied < PAUSE else oldest


class Use:
    """How many replicas the last `window` seconds have asked for, by how many were busy."""

    def __init__(self, window: float) -> None:
        self._window = window
        self._slice = max(SHORTEST_SLICE, min(SLICE, window / 4))
        self._begun = self._last = 0.0
        self._busy = self._most = 0  # now, and at most in this slice
        self._worked = 0.0  # replica-seconds in this slice
        self._asked = 0  # in this slice, by `ask`
        self._peaks: deque[tuple[float, int]] = deque()  # ends of slices and what they asked for, which falls

    @property
    def next(self) -> float:
        """Return when to `observe` again at the latest, for what is idle then to be seen as that."""
        return self._begun + self._slice

    def observe(self, busy: int, now: float) -> int:
        """Return what has been asked for, now that `busy` replicas run something."""
        self._worked += self._busy * (now - self._last)
        self._last, self._busy, self._most = now, busy, max(self._most, busy)
        if now >= self.next and now > self._begun:
            self._close(now)
        while self._peaks and self._peaks[0][0] < now - self._window:
            self._peaks.popleft()
        return max(self._most, self._asked, self._peaks[0][1] if self._peaks else 0)

    def ask(self, replicas: int) -> None:
        """Note that so many are asked for now, whether or not they are busy."""
        self._asked = max(self._asked, replicas)

    def _close(self, now: float) -> None:
        """End a slice: as many as were busy at once are enough, or fewer, where those had little to do."""
        enough = min(self._most, math.ceil(self._worked / (now - self._begun) / IN_USE))
        asked = max(self._asked, enough)
        while self._peaks and self._peaks[-1][1] <= asked:  # a later one that is as high outlives it
            self._peaks.pop()
        self._peaks.append((now, asked))
        self._begun, self._worked, self._most, self._asked = now, 0.0, self._busy, 0


class Scaling:
    """Has as many replicas `wanted` of one pool as `replicas_wanted` says, from what it remembers of it."""

    def __init__(self, settings: StageSettings, scarce: Callable[[float], bool]) -> None:
        self.wanted = settings.min_workers
        self.next = math.inf  # when to look again at the latest, though nothing has happened
        self._minimum, self._maximum = settings.min_workers, settings.max_workers
        self._memory_is_scarce = scarce
        self._standing = Standing()
        self._use = Use(settings.idle_timeout)
        self._changed = -math.inf  # when a replica was last added, or came up: what that helps shows later

    @property
    def elastic(self) -> bool:
        """Whether there is anything to decide."""
        return self._minimum < self._maximum

    def resize(self, minimum: int, maximum: int) -> int:
        """Have from `minimum` to `maximum` replicas, and as many of them as before if that can be."""
        self._minimum, self._maximum, self.next = minimum, maximum, math.inf
        self.wanted = replicas_kept(self.wanted, minimum, maximum)
        self._use.ask(self.wanted)
        return self.wanted

    def took(self, items: int, arrived: float, lasts: float, now: float) -> None:
        """Note a batch that leaves now, as `Standing.took` has it."""
        if self._standing.took(items, arrived, lasts, now):
            self._use.ask(self.wanted)

    def came(self, now: float) -> None:
        """Note that a replica has come up."""
        self._changed = now

    def look(self, oldest: float, batches: int, work: float, *, busy: int, idle: int, now: float) -> int:
        """Return how many replicas are wanted now.

        What waits has come at `oldest` (infinity: nothing waits) or later. It makes so many `batches`, and
        is `work` (seconds) for one replica, or 0 if that is not known.
        """
        since = max(self._standing.since(oldest), self._changed)
        stood = max(0.0, now - since) if batches else 0.0
        self._decide(Load(batches, work, stood, busy, idle, self._use.observe(busy, now)), now)
        grows = since + 1.01 * STANDING  # surely after it, as floats go
        self.next = min(
            grows if grows > now and self.wanted < self._maximum else math.inf,
            self._use.next if self.wanted > self._minimum else math.inf,
        )
        return self.wanted

    def _decide(self, load: Load, now: float) -> None:
        before, bounds = self.wanted, (self._minimum, self._maximum)
        self.wanted = replicas_wanted(load, before, *bounds)
        if max(before, self.wanted) > self._minimum and self._memory_is_scarce(now):
            self.wanted = replicas_wanted(load, before, *bounds, scarce=True)
        if self.wanted > before:
            self._changed = now
            self._use.ask(self.wanted)
