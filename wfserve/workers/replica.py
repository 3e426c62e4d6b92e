"""A Replica is one place in a pool, filled by one worker after another; its pool alone changes it."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import trio

from wfserve.errors import FrameError
from wfserve.workers.base import ReplicaStatus

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Descriptor, Payload
    from wfserve.workers.base import Batch, LoadError
    from wfserve.workers.lease import Lease
    from wfserve.workers.process import Worker


class Replica:
    """One place in the pool, filled by one worker after another, all of them on the same GPU."""

    def __init__(self, number: int, chain: Sequence[WorkerSpec], *, must_load: bool) -> None:
        self.number = number
        self.chain = chain
        self.must_load = must_load  # the pool does not open, or closes, if its first worker cannot load
        self.loaded = trio.Event()
        self.life = trio.CancelScope()
        self.created = time.time()
        self.leaving = False
        self.worker: Worker | None = None
        self.deaths = 0  # in a row, without a completed batch
        self.lent: set[int] = set()  # loans of its worker to other processes
        self.joined = False  # by other processes: the worker says when it begins with a batch
        self.kept: list[Payload] = []  # inputs of earlier batches that the worker still looks at
        self.vacate("STARTING")

    def let_go(self, dropped: Descriptor) -> None:
        """Release the input that the worker has dropped."""
        for index, payload in enumerate(self.kept):
            if payload.descriptor == dropped:
                self.kept.pop(index).release()
                return
        raise FrameError(f"{dropped} is not kept")

    def vacate(self, state: str) -> None:
        """Forget the worker that was here."""
        self.state = state
        self.worker = None
        self.batch: Batch | None = None
        self.withdrawn: Batch | None = None  # that need not begin, if it has not
        self.lease: Lease | None = None
        self.behind: tuple[Batch, Lease] | None = None  # that begins when `batch` has ended
        self.ready = False
        self.failure: LoadError | None = None  # why it did not load
        self.end = ""  # why its batch is lost, once it is dying
        self.heard = True  # False once nothing that the worker still says is believed

    def status(self) -> ReplicaStatus:
        pid, started = (self.worker.pid, self.worker.started) if self.worker else (0, self.created)
        return ReplicaStatus(str(self.number), pid, "LEAVING" if self.leaving else self.state, started)
