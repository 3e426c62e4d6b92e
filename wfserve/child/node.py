"""A Node turns refs of inputs into refs of results: rows, the handler's call, frames in lent memory.

A model gets all items of a step in one call. A function gets one a call, and its result is written before the
next call, which may overwrite what it returned.
"""

from __future__ import annotations

import logging
import traceback
from contextlib import nullcontext
from functools import partial
from typing import TYPE_CHECKING

from wfserve.child import codec, many, objects
from wfserve.child.batch import Batch, Rooms
from wfserve.child.envelope import joins
from wfserve.child.fault import NodeError, sending_fault_of
from wfserve.child.handler import Handler
from wfserve.child.results import write_result, write_results
from wfserve.child.rows import Layout, Rows
from wfserve.transport.message import MAX_RESPONSE_BYTES, Fault, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from contextlib import AbstractContextManager

    from wfserve.child.codec import Encoded
    from wfserve.child.context import Job
    from wfserve.child.envelope import Together
    from wfserve.child.handler import Answer
    from wfserve.child.inputs import Inputs
    from wfserve.child.results import Extents, Outcome
    from wfserve.child.rows import Arrived
    from wfserve.child.spec import Place, WorkerSpec
    from wfserve.transport.message import Result

log = logging.getLogger(__name__)


def unheard(_item: int) -> None:
    """Be told of an item, where nobody has to know."""


class Calls:
    """How the handler is called for the items of one step, and where its results go.

    `begins` is told of each item that a call begins with; `direct` says that clients called this node alone.
    """

    def __init__(
        self,
        extents: Extents,
        begins: Callable[[int], None] = unheard,
        direct: bool = False,
        form: Form = Form.WHOLE,
    ) -> None:
        self.extents = extents
        self.begins = begins
        self.direct = direct
        self.form = form


class Node:
    """One node of a stage, loaded."""

    def __init__(
        self,
        spec: WorkerSpec,
        home: AbstractContextManager[object] | None = None,
        handler: Handler | None = None,
    ) -> None:
        """Load the handler, unless there is one, in `home` if that has to be entered.

        Raises whatever its code does.
        """
        self.spec = spec
        self._home = home or nullcontext()
        self._rooms = Rooms()
        if handler is None:
            with self._home:
                handler = Handler(spec)
        self._handler = handler
        archive = objects.Archive(spec.model_dir)
        self._encode_leaving = codec.encoder_for(spec.data_format, True, archive)
        between = "native" if joins(spec) else spec.data_format
        self._encode_staying = codec.encoder_for(between, False, archive)
        self._layout = Layout(spec)
        self._may_be_many = spec.may_be_many

    def at(self, place: Place) -> Node:
        """Return the same node, its handler and all, as it stands in another workflow."""
        spec = self.spec.at(place)
        other = Node(spec, self._home, self._handler.at(spec))
        other._rooms = self._rooms
        return other

    def run(self, items: Sequence[Arrived], inputs: Inputs, calls: Calls) -> list[Result]:
        """Return a result for each item, in order."""
        with self._home:
            rows = Rows(self._layout, inputs, direct=calls.direct)
            if calls.form is Form.JOINED:
                return self._joined(items, rows, inputs, calls)
            rows.look_together(items)
            jobs = self._jobs(items, rows)
            together = self._together(inputs)
            if not self.spec.is_function:
                calls.begins(0)
                return self._written(jobs, together, inputs, calls)
            results: list[Result] = []
            for index, job in enumerate(jobs):
                calls.begins(index)
                results.append(self._written_alone(job, together, inputs, calls))
            return results

    def _joined(self, items: Sequence[Arrived], rows: Rows, inputs: Inputs, calls: Calls) -> list[Result]:
        """Put the results of parts together; the handler has seen all of them already."""
        outcomes = []
        for item in items:
            job, parts = rows.parts(item)
            outcomes.append(self._encoded(job, many.one_of_parts(parts), inputs, calls.form))
        return write_results(calls.extents, outcomes)

    def take_metrics(self) -> bytes:
        """Return what the handler recorded since the last time, as JSON; empty if nothing."""
        return self._handler.take_metrics()

    def _jobs(self, items: Sequence[Arrived], rows: Rows) -> list[Job | Fault]:
        jobs: list[Job | Fault] = []
        for item in items:
            try:
                jobs.append(rows.job(item))
            except NodeError as error:
                log.error("%s cannot read %s: %s", self.spec.name, item.request_id, str(error))
                jobs.append(error.fault)
        return jobs

    def _written(
        self, jobs: Sequence[Job | Fault], together: Together, inputs: Inputs, calls: Calls
    ) -> list[Result]:
        """Call the handler with those jobs that could be read, and write what it returns."""
        readable = [job for job in jobs if not isinstance(job, Fault)]
        answers = iter(self._called(readable, together, calls.form))
        outcomes = [
            job if isinstance(job, Fault) else self._encoded(job, next(answers), inputs, calls.form)
            for job in jobs
        ]
        return write_results(calls.extents, outcomes)

    def _written_alone(self, job: Job | Fault, together: Together, inputs: Inputs, calls: Calls) -> Result:
        """Call a function with a job, if that could be read, and write what it returns."""
        if isinstance(job, Fault):
            return job
        answer = self._called((job,), together, calls.form)[0]
        return write_result(calls.extents, self._encoded(job, answer, inputs, calls.form))

    def _called(
        self, jobs: Sequence[Job], together: Together, form: Form
    ) -> Sequence[Answer | Fault | many.Division]:
        """Return what the handler makes of each job, of as many rows as an input may be."""
        if not self._may_be_many:
            return self._handler.call(jobs, together)
        return many.call(partial(self._handler.call, together=together), jobs, self.spec, form)

    def _together(self, inputs: Inputs) -> Together:
        if self.spec.data_format == "bytes":
            return list
        return lambda rows: Batch(rows, inputs, self._rooms, self.spec)

    def _encoded(
        self, job: Job, answer: Answer | Fault | many.Division, inputs: Inputs, form: Form
    ) -> Outcome:
        if isinstance(answer, Fault):
            return answer
        try:
            if isinstance(answer, many.Division):
                return [self._encode_staying(part, inputs) for part in answer.parts]
            if len(answer.response) > MAX_RESPONSE_BYTES:
                raise NodeError(f"The response headers are limited to {MAX_RESPONSE_BYTES} bytes.")
            if form is Form.PART:
                return self._encode_part(answer, inputs), b""
            if self.spec.data_format == "native" and (job.direct or self.spec.only_leaf):
                return codec.encode_accepted(answer, job.headers, inputs)
            encode = self._encode_leaving if job.direct or self.spec.leaf else self._encode_staying
            return encode(answer.value, inputs), answer.response
        except Exception as error:  # a value's own methods may raise anything
            text = traceback.format_exc()
            log.error("%s cannot send the result of %s\n%s", self.spec.name, job.request_id, text)
            return sending_fault_of(error)

    def _encode_part(self, answer: Answer, inputs: Inputs) -> Encoded:
        """Encode the results of some rows for the worker that puts all together.

        Where they can only leave, it is as the values that they leave as.
        """
        try:
            return self._encode_staying(tuple(answer), inputs)
        except NodeError:
            if not self.spec.leaf:
                raise
            return self._encode_staying((codec.as_it_leaves(answer.value), answer.response), inputs)
