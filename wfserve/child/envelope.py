"""An envelope opens what a client sent and closes what leaves to it; between nodes the rows travel open.

A request of the `json`, `kserve` and `kservev2` envelopes holds several rows. The start node is called with
them, each later node with what its parents returned for them, as it is: with one parent the value, with
several a dictionary by parent. A leaf's results, one a row, become the response. `body` only unwraps, at
every node as in TorchServe; rows of several parents have nothing to unwrap.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from wfserve.child.context import Job
    from wfserve.child.spec import WorkerSpec

    Entry = Callable[[Any, Any], Any]
    Together = Callable[[list[Any]], list[Any]]  # makes of rows what a handler gets

BODY = "body"
PACKAGE = "ts.torch_handler.request_envelope"


class OpenRows(NamedTuple):
    """The rows of one request on their way to the next node, and what its response will repeat of it."""

    values: list[Any]
    repeated: Any


def joins(spec: WorkerSpec) -> bool:
    """Say whether a request holds several rows, which travel between nodes as `OpenRows`."""
    return spec.service_envelope not in ("", BODY)


def enveloped(spec: WorkerSpec, entry: Entry, context: Any) -> Callable[[Sequence[Job], Together], Any]:
    """Return what calls `entry` for a batch; its result is right if it is a list, an entry a job.

    Raises `ImportError` if there is no such envelope.
    """
    if spec.service_envelope:
        module = importlib.import_module(f"{PACKAGE}.{spec.service_envelope}")
        (kind,) = importlib.import_module("ts.utils.util").list_classes_from_module(module)
        if joins(spec):
            return _Joined(spec, entry, context, kind(entry)).answer
        entry = kind(entry).handle
    return lambda jobs, together: entry(together([job.row for job in jobs]), context)


class _Joined:
    """Calls a handler with the rows of all requests of a batch."""

    def __init__(self, spec: WorkerSpec, entry: Entry, context: Any, envelope: Any) -> None:
        self._spec = spec
        self._entry = entry
        self._context = context
        self._envelope = envelope
        self._envelope.context = context
        self._split = importlib.import_module(f"{PACKAGE}.base").split

    def answer(self, jobs: Sequence[Job], together: Together) -> Any:
        """Return a result for each job, or what the handler returned if that is not one a row.

        A single request is answered with whatever the handler makes of its rows.
        """
        opened = [self._open(job) for job in jobs]
        lengths = [len(each.values) for each in opened]
        results = self._entry(together([value for each in opened for value in each.values]), self._context)
        free = len(jobs) == 1 and self._closes(jobs[0])
        if results is None or not (free or isinstance(results, list)):
            return results
        if not free and len(results) != sum(lengths):
            return []  # which is a wrong length, too
        parts = self._split(results, lengths)
        return [
            self._closed(index, job, part, each.repeated)
            if self._closes(job)
            else OpenRows(part, each.repeated)
            for index, (job, part, each) in enumerate(zip(jobs, parts, opened, strict=True))
        ]

    def _open(self, job: Job) -> OpenRows:
        if job.describes:
            return OpenRows([job.row], None)
        if job.direct or not self._spec.parents:
            return OpenRows(*self._envelope.opened(job.row))
        given: list[OpenRows] = list(job.row.values())
        if len(given) == 1:
            return given[0]
        rows = zip(*(each.values for each in given), strict=True)
        return OpenRows([dict(zip(job.row, row, strict=True)) for row in rows], given[0].repeated)

    def _closed(self, index: int, job: Job, part: Any, repeated: Any) -> Any:
        if job.describes and isinstance(part, list) and len(part) == 1:
            return part[0]
        return self._envelope.response(index, part, repeated)

    def _closes(self, job: Job) -> bool:
        return job.direct or self._spec.leaf
