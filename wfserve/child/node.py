"""A Node turns refs of inputs into refs of results: rows, the handler's call, frames in lent memory.

A model gets all items of a step in one call. A function gets one a call, and its result is written before the
next call, which may overwrite what it returned.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import nullcontext
from typing import TYPE_CHECKING

from wfserve.child import codec, objects
from wfserve.child.envelope import joins
from wfserve.child.fault import NodeError, sending_fault_of
from wfserve.child.handler import Handler
from wfserve.child.results import write_results
from wfserve.child.rows import Rows
from wfserve.transport.message import MAX_RESPONSE_BYTES, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from wfserve.child.codec import Encoded
    from wfserve.child.context import Job
    from wfserve.child.handler import Answer
    from wfserve.child.inputs import Inputs
    from wfserve.child.results import Extents
    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import ChildLink
    from wfserve.transport.message import CallItem, Result

log = logging.getLogger(__name__)


class Node:
    """One node of a stage, loaded."""

    def __init__(
        self, spec: WorkerSpec, link: ChildLink, home: AbstractContextManager[object] | None = None
    ) -> None:
        """Load the handler, in `home` if that has to be entered. Raises whatever its code does."""
        self.spec = spec
        self._link = link
        self._home = home or nullcontext()
        with self._home:
            self._handler = Handler(spec)
        archive = objects.Archive(spec.model_dir)
        self._encode_leaving = codec.encoder_for(spec.data_format, True, archive)
        between = "native" if joins(spec) else spec.data_format
        self._encode_staying = codec.encoder_for(between, False, archive)

    def run(
        self,
        items: Sequence[CallItem],
        inputs: Inputs,
        extents: Extents,
        begins: Callable[[int], None],
        *,
        direct: bool = False,
    ) -> list[Result]:
        """Return a result for each item, in order. `begins` is told of each item that a call begins with."""
        with self._home:
            jobs = self._jobs(items, Rows(self.spec, inputs, direct=direct))
            if not self.spec.is_function:
                begins(0)
                return self._written(jobs, inputs, extents)
            results: list[Result] = []
            for index, job in enumerate(jobs):
                begins(index)
                results += self._written([job], inputs, extents)
            return results

    def take_metrics(self) -> bytes:
        """Return what the handler recorded since the last time, as JSON; empty if nothing."""
        return self._handler.take_metrics()

    def _jobs(self, items: Sequence[CallItem], rows: Rows) -> list[Job | Fault]:
        jobs: list[Job | Fault] = []
        for item in items:
            try:
                jobs.append(rows.job(item))
            except NodeError as error:
                log.error("%s cannot read %s: %s", self.spec.name, item.request_id, str(error))
                jobs.append(error.fault)
        return jobs

    def _written(self, jobs: Sequence[Job | Fault], inputs: Inputs, extents: Extents) -> list[Result]:
        """Call the handler with those jobs that could be read, and write what it returns."""
        answers = iter(self._handler.call([job for job in jobs if not isinstance(job, Fault)]))
        outcomes = [
            job if isinstance(job, Fault) else self._encoded(job, next(answers), inputs) for job in jobs
        ]
        return write_results(self._link, extents, outcomes)

    def _encoded(self, job: Job, answer: Answer | Fault, inputs: Inputs) -> tuple[Encoded, bytes] | Fault:
        if isinstance(answer, Fault):
            return answer
        try:
            if len(answer.response) > MAX_RESPONSE_BYTES:
                raise NodeError(f"The response headers are limited to {MAX_RESPONSE_BYTES} bytes.")
            if self.spec.data_format == "native" and (job.direct or self.spec.only_leaf):
                return codec.encode_accepted(answer, job.headers, inputs)
            encode = self._encode_leaving if job.direct or self.spec.leaf else self._encode_staying
            return encode(answer.value, inputs), answer.response
        except Exception as error:  # a value's own methods may raise anything
            text = traceback.format_exc()
            log.error("%s cannot send the result of %s\n%s", self.spec.name, job.request_id, text)
            return sending_fault_of(error)
