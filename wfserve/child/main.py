"""The worker process: one batch after another is read from lent memory, answered, and written to lent memory.

    GRANT (scratch) ──▶ load ──▶ READY, or FAILED with the reason in the scratch extent
    CALL ──▶ step ──▶ … ──▶ step ──▶ DONE ──▶ RELEASE …      a step: read inputs, handler, write results
                                                             (GROW ──▶ GRANT for more room)
    JOIN ──▶ one more process is answered (`joined`)

A worker runs a chain of nodes, mostly of one; each is a step. What a step wrote is the next one's input,
where it lies, so that a step can be tried again by itself, after whatever happened to the worker.

Importing it imports torch and starts nothing, so that a fork server may.
"""

from __future__ import annotations

import logging
import time
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, cast

from wfserve.child import device
from wfserve.child.fault import load_failure_of
from wfserve.child.inputs import Inputs, kept_once
from wfserve.child.joined import Host, Joined
from wfserve.child.memory import Peaks, keep_freed
from wfserve.child.node import Calls, Node, unheard
from wfserve.child.results import Extents, Stopped, write_reply
from wfserve.child.rows import Arrived
from wfserve.child.spec import Place
from wfserve.child.surroundings import settle
from wfserve.transport import progress
from wfserve.transport.base import BRIEF_SPIN, NOWHERE, Message, MessageKind, new_tuple
from wfserve.transport.message import (
    Divided,
    Fault,
    Ran,
    Reply,
    decode_call,
    encode_load_failure,
    encode_passed,
    passed_size,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfserve.child.home import Home
    from wfserve.child.inputs import Watched
    from wfserve.child.joined import JoinableLink
    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Call, Result

log = logging.getLogger(__name__)
FEW = 4  # inputs: with more in a batch, the core is of more use to those who make the next one
PLACES = 64  # that a worker remembers, of the nodes that share it

_FOLLOWING: Final = {f"{number:02x}": f"{(number + 1) % 256:02x}" for number in range(256)}


def run(chain: Sequence[WorkerSpec], port: Any, server_pidfd: Any) -> None:
    """Be a worker of the nodes of `chain` until the server says stop; what `Process` runs.

    `port` is what `Transport.connect` made for the child; `server_pidfd` is the server's pidfd, a number or
    what carries one (`multiprocessing.reduction.DupFd`).
    """
    pidfd = server_pidfd if isinstance(server_pidfd, int) else server_pidfd.detach()
    homes = settle(chain, pidfd)
    if len(chain) == 1:
        homes.pop().enter()  # for good
    serve(chain, port.attach(), homes)


def serve(chain: Sequence[WorkerSpec], link: ChildLink, homes: Sequence[Home] = ()) -> None:
    """Load the handlers and answer batches until told to stop; without `homes`, all where we are."""
    scratch = link.receive()
    if scratch.kind == MessageKind.STOP:
        return
    view = link.map(scratch.descriptor)
    device.copies.offer(link.pinned)
    nodes: list[Node] = []
    try:
        for step, spec in enumerate(chain):
            nodes.append(Node(spec, homes[step] if homes else None))
    except (Exception, SystemExit) as error:
        log.exception("%s could not be loaded", chain[len(nodes)].name)
        failure = load_failure_of(error)._replace(step=len(nodes))
        length = encode_load_failure(failure, view)
        link.send(Message(MessageKind.FAILED, 0, scratch.descriptor._replace(length=length)))
        return
    keep_freed()
    link.send(Message(MessageKind.READY, 0, NOWHERE))
    worker = Worker(nodes, link, view)
    try:
        while (message := worker.next()).kind == MessageKind.CALL:
            if progress.withdrawn(view, message.tag):
                link.send(Message(MessageKind.DROPPED, message.tag, NOWHERE))
            else:
                worker.answer(message)
        if message.kind == MessageKind.JOIN:
            Joined(cast("JoinableLink", link), Host(worker, view), partial(Worker, nodes)).serve(message)
    except Stopped:
        return


class Worker:
    """Answers batches with loaded nodes, and remembers which inputs they still look at."""

    def __init__(self, nodes: Sequence[Node], link: ChildLink, scratch: memoryview) -> None:
        self._nodes = nodes
        self._link = link
        self._scratch = scratch
        self._kept: list[Watched] = []
        self._peaks = Peaks()
        self._most_spin_us = nodes[0].spec.spin_us
        self._spin_us = 0  # to be spent awake, waiting for more
        self._ahead: list[Message] = []  # CALLs that came while memory was waited for
        self._placed = lru_cache(PLACES)(self._at)

    def _at(self, place: bytes) -> Sequence[Node]:
        """Return the nodes as they stand where a batch is for that shares the worker with others."""
        where = Place.read(place)
        return [node.at(where) for node in self._nodes]

    def next(self) -> Message:
        """Wait for what the server says next."""
        return self._ahead.pop(0) if self._ahead else self._link.receive(self._spin_us)

    def answer(self, message: Message) -> None:
        """Answer one CALL."""
        call = decode_call(self._link.map(message.descriptor))
        extents = Extents(self._link, message.tag, call.extent, self._ahead)
        nodes = self._placed(call.place) if call.place else self._nodes
        batch = _Batch(nodes, self._link, self._scratch, message.tag, call, extents)
        batch.run()
        device.copies.settle()
        kept = kept_once(batch.inputs)
        reply = Reply(tuple(batch.results), tuple(watched.descriptor for watched in kept), tuple(batch.ran))
        place = write_reply(extents, reply)
        self._link.send(Message(MessageKind.DONE, message.tag, place))
        self._release()
        self._kept += kept
        self._spin_us = self._most_spin_us if len(call.items) <= FEW else min(BRIEF_SPIN, self._most_spin_us)
        self._peaks.settle()

    def _release(self) -> None:
        """Give back inputs of earlier batches that nothing looks at any more."""
        if not self._kept:
            return
        kept, self._kept = self._kept, []
        for watched in kept:
            if watched.alive():
                self._kept.append(watched)
            else:
                self._link.send(Message(MessageKind.RELEASE, 0, watched.descriptor))


class _Batch:
    """One batch on its way through the steps of a stage."""

    def __init__(
        self,
        nodes: Sequence[Node],
        link: ChildLink,
        scratch: memoryview,
        tag: int,
        call: Call,
        extents: Extents,
    ) -> None:
        self._nodes = nodes
        self._link = link
        self._scratch = scratch
        self._tag = tag
        self._call = call
        self._extents = extents
        self._live = [
            (index, new_tuple(Arrived, (request_id, bytes(link.map(headers.descriptor)), inputs)))
            for index, (request_id, headers, inputs) in enumerate(call.items)
        ]
        self._found: dict[int, Result] = {}
        self.inputs: list[Inputs] = []
        self.ran: list[Ran] = []

    @property
    def results(self) -> list[Result]:
        """Return a result for each item of the call."""
        return [self._found[index] for index in range(len(self._call.items))]

    def run(self) -> None:
        """Run step after step, until the last or until no item is left."""
        for step in range(self._call.first, self._call.last + 1):
            if self._live:
                self._run(step)

    def _run(self, step: int) -> None:
        began = time.perf_counter_ns()
        node, call = self._nodes[step], self._call
        inputs = Inputs(self._link, copied=node.spec.copy_inputs)
        self.inputs.append(inputs)
        if step > call.first:
            self._note_passed(step)
        items = [item for _, item in self._live]
        calls = Calls(self._extents, self._beginner(step), call.direct, call.form)
        results = node.run(items, inputs, calls)
        self._sort(step, results)
        took = time.perf_counter_ns() - began
        self.ran.append(Ran(took, len(items), node.take_metrics(), inputs.copies))

    def _beginner(self, step: int) -> Callable[[int], None]:
        if len(self._nodes) == 1:  # the server knows
            return unheard
        return partial(progress.note, self._scratch, self._tag, step)

    def _note_passed(self, step: int) -> None:
        """List what this step begins with: if the worker dies, it is all that is left of the steps before."""
        size = passed_size(len(self._live))
        self._extents.reserve(size)
        if (place := self._extents.place(size)) is not None:
            refs = [(index, item.inputs[0][1]) for index, item in self._live]
            encode_passed(refs, self._extents.view(place))
            progress.note_passed(self._scratch, self._tag, step, place)

    def _sort(self, step: int, results: Sequence[Result]) -> None:
        """Keep what is final, and make inputs of the rest."""
        onward: list[tuple[int, Arrived]] = []
        is_last = step == self._call.last
        for (index, item), result in zip(self._live, results, strict=True):
            if isinstance(result, Fault):
                reached = item.inputs[0][1] if step > self._call.first else None
                self._found[index] = result._replace(step=step, reached=reached)
            elif is_last or isinstance(result, Divided):
                self._found[index] = result
            else:
                request_id = following_id(item.request_id)
                onward.append((index, new_tuple(Arrived, (request_id, item.headers, ((0, result.ref),)))))
        self._live = onward


def following_id(request_id: str) -> str:
    """Return the id of the next node's job, another UUID, and the same whenever it is run again."""
    return request_id[:-2] + _FOLLOWING[request_id[-2:]]
