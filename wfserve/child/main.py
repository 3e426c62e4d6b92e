"""The worker process: one batch after another is read from lent memory, answered, and written to lent memory.

    GRANT (scratch) ──▶ load ──▶ READY, or FAILED with the reason in the scratch extent
    CALL ──▶ read inputs ──▶ handler ──▶ write results (GROW ──▶ GRANT for more room) ──▶ DONE ──▶ RELEASE …

Importing it imports torch and starts nothing, so that a fork server may.
"""

from __future__ import annotations

import logging
import time
import traceback
from typing import TYPE_CHECKING, Any

from wfserve.child import codec, objects
from wfserve.child.envelope import joins
from wfserve.child.fault import NodeError, load_failure_of, sending_fault_of
from wfserve.child.handler import Handler
from wfserve.child.inputs import Inputs
from wfserve.child.results import Extents, Stopped, write_reply, write_results
from wfserve.child.rows import Rows
from wfserve.child.surroundings import settle
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.message import (
    MAX_RESPONSE_BYTES,
    Fault,
    Reply,
    decode_call,
    encode_load_failure,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.codec import Encoded
    from wfserve.child.context import Job
    from wfserve.child.handler import Answer
    from wfserve.child.inputs import Watched
    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import Call, Result

log = logging.getLogger(__name__)


def run(spec: WorkerSpec, port: Any, server_pidfd: Any) -> None:
    """Be the worker of `spec` until the server says stop; what `Process` runs.

    `port` is what `Transport.connect` made for the child; `server_pidfd` is the server's pidfd, a number or
    what carries one (`multiprocessing.reduction.DupFd`).
    """
    pidfd = server_pidfd if isinstance(server_pidfd, int) else server_pidfd.detach()
    settle(spec, pidfd)
    serve(spec, port.attach())


def serve(spec: WorkerSpec, link: ChildLink) -> None:
    """Load the handler and answer batches until told to stop. The surroundings must have been made."""
    scratch = link.receive()
    if scratch.kind == MessageKind.STOP:
        return
    try:
        handler = Handler(spec)
    except (Exception, SystemExit) as error:
        log.exception("%s could not be loaded", spec.name)
        length = encode_load_failure(load_failure_of(error), link.map(scratch.descriptor))
        link.send(Message(MessageKind.FAILED, 0, scratch.descriptor._replace(length=length)))
        return
    link.send(Message(MessageKind.READY, 0, NOWHERE))
    worker = Worker(spec, link, handler)
    try:
        while (message := link.receive()).kind != MessageKind.STOP:
            worker.answer(message)
    except Stopped:
        return


class Worker:
    """Answers batches with a loaded handler, and remembers which inputs it still looks at."""

    def __init__(self, spec: WorkerSpec, link: ChildLink, handler: Handler) -> None:
        self._spec = spec
        self._link = link
        self._handler = handler
        archive = objects.Archive(spec.model_dir)
        self._encode_leaving = codec.encoder_for(spec.data_format, True, archive)
        between = "native" if joins(spec) else spec.data_format
        self._encode_staying = codec.encoder_for(between, False, archive)
        self._kept: list[Watched] = []

    def answer(self, message: Message) -> None:
        """Answer one CALL."""
        began = time.perf_counter_ns()
        call = decode_call(self._link.map(message.descriptor))
        extents = Extents(self._link, message.tag, call.extent)
        inputs = Inputs(self._link, copied=self._spec.copy_inputs)
        results = self._results(call, inputs, extents)
        kept = inputs.kept()  # only now: until here the results themselves looked at inputs
        positions = tuple(watched.position for watched in kept)
        metrics = self._handler.take_metrics()
        reply = Reply(tuple(results), positions, time.perf_counter_ns() - began, metrics)
        place = write_reply(self._link, extents, reply)
        self._link.send(Message(MessageKind.DONE, message.tag, place))
        self._release()
        self._kept += kept

    def _results(self, call: Call, inputs: Inputs, extents: Extents) -> list[Result]:
        jobs = self._jobs(call, inputs)
        if not self._spec.is_function:
            return self._written(jobs, inputs, extents)
        # One after the other: what a function returned may be overwritten by its next call.
        return [result for job in jobs for result in self._written([job], inputs, extents)]

    def _written(self, jobs: Sequence[Job | Fault], inputs: Inputs, extents: Extents) -> list[Result]:
        """Call the handler with those jobs that could be read, and write what it returns."""
        answers = iter(self._handler.call([job for job in jobs if not isinstance(job, Fault)]))
        outcomes = [
            job if isinstance(job, Fault) else self._encoded(job, next(answers), inputs) for job in jobs
        ]
        return write_results(self._link, extents, outcomes)

    def _jobs(self, call: Call, inputs: Inputs) -> list[Job | Fault]:
        rows = Rows(self._spec, inputs)
        jobs: list[Job | Fault] = []
        for item in call.items:
            try:
                jobs.append(rows.job(item))
            except NodeError as error:
                log.error("%s cannot read %s: %s", self._spec.name, item.request_id, str(error))
                jobs.append(error.fault)
        return jobs

    def _encoded(self, job: Job, answer: Answer | Fault, inputs: Inputs) -> tuple[Encoded, bytes] | Fault:
        if isinstance(answer, Fault):
            return answer
        try:
            if len(answer.response) > MAX_RESPONSE_BYTES:
                raise NodeError(f"The response headers are limited to {MAX_RESPONSE_BYTES} bytes.")
            if self._spec.data_format == "native" and (job.direct or self._spec.only_leaf):
                return codec.encode_accepted(answer, job.headers, inputs)
            encode = self._encode_leaving if job.direct or self._spec.leaf else self._encode_staying
            return encode(answer.value, inputs), answer.response
        except Exception as error:  # a value's own methods may raise anything
            text = traceback.format_exc()
            log.error("%s cannot send the result of %s\n%s", self._spec.name, job.request_id, text)
            return sending_fault_of(error)

    def _release(self) -> None:
        """Give back inputs of earlier batches that nothing looks at any more."""
        kept, self._kept = self._kept, []
        for watched in kept:
            if watched.alive():
                self._kept.append(watched)
            else:
                self._link.send(Message(MessageKind.RELEASE, 0, watched.descriptor))
