"""An input may be many rows, [N, *input-shape]: the handler gets each as one, and their results become one.

A worker that may share the work with others divides what is more than a batch, rather than run it.
"""

from __future__ import annotations

from itertools import chain, islice
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import torch

from wfserve.child.handler import Answer
from wfserve.transport.message import Fault, Form

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from wfserve.child.context import Job
    from wfserve.child.spec import WorkerSpec


MOST_PARTS: Final = 64  # of one input: what has more rows has larger parts, of several batches each


class Division(NamedTuple):
    """What became of an input that is for several workers: its parts, as equal as they can be."""

    parts: tuple[torch.Tensor, ...]


def call(
    handle: Callable[[Sequence[Job]], list[Answer | Fault]], jobs: Sequence[Job], spec: WorkerSpec, form: Form
) -> list[Answer | Fault | Division]:
    """Return what `handle` makes of each job, of which it gets no more rows at a time than a batch has.

    Where the work is `DIVISIBLE`, what has more rows is divided instead.
    """
    rows = [_rows_of(job, spec) for job in jobs] if spec.may_be_many else []
    if all(each is None for each in rows):
        return [*handle(jobs)]
    most = 1 if spec.is_function else spec.batch_size
    found: dict[int, Division] = {}
    groups: list[list[Job]] = []
    for index, (job, several) in enumerate(zip(jobs, rows, strict=True)):
        if several is None:
            groups.append([job])
        elif form is Form.DIVISIBLE and len(several) > most and len(job.row) == 1:
            found[index] = Division(torch.tensor_split(several, min(-(-len(several) // most), MOST_PARTS)))
            groups.append([])
        else:
            groups.append([job._replace(row={**job.row, "body": row}) for row in several])
    answers = _answers(handle, [*chain.from_iterable(groups)], most, keep=spec.is_function)
    return [
        found.get(index)
        or (_one_result(list(islice(answers, len(group)))) if rows[index] is not None else next(answers))
        for index, group in enumerate(groups)
    ]


def _rows_of(job: Job, spec: WorkerSpec) -> torch.Tensor | None:
    """Return the rows that a job's body holds, None if it is one input."""
    value, shape = job.row.get("body"), spec.input_shape or ()
    if not isinstance(value, torch.Tensor) or value.dim() != len(shape) + 1:
        return None
    return value if value.shape[1:] == shape else None


def _answers(
    handle: Callable[[Sequence[Job]], list[Answer | Fault]], jobs: Sequence[Job], most: int, *, keep: bool
) -> Iterator[Answer | Fault]:
    """Yield the answers to all jobs; with `keep`, the next call may overwrite the tensors of the last."""
    for first in range(0, len(jobs), most):
        for answer in handle(jobs[first : first + most]):
            if keep and isinstance(answer, Answer) and isinstance(answer.value, torch.Tensor):
                yield answer._replace(value=answer.value.clone())
            else:
                yield answer


def _one_result(answers: Sequence[Answer | Fault]) -> Answer | Fault:
    """Return what the results of all rows are together: a tensor of tensors of one kind, else a list.

    The first fault counts, and of what handlers set on the response, what was set first.
    """
    values: list[Any] = []
    response = b""
    for answer in answers:
        if isinstance(answer, Fault):
            return answer
        values.append(answer.value)
        response = response or answer.response
    return Answer(torch.stack(values) if _are_alike(values, 0) else values, response)


def one_of_parts(parts: Sequence[tuple[Any, bytes]]) -> Answer:
    """Return the results of parts, each a value and a response as `call` made them, as one."""
    values = [value for value, _ in parts]
    response = next((said for _, said in parts if said), b"")
    if _are_alike(values, 1):
        return Answer(torch.cat(values), response)
    return Answer(list(chain.from_iterable(map(_each, values))), response)


def _each(value: Any) -> Iterator[Any]:
    return iter(value.unbind() if isinstance(value, torch.Tensor) else value)


def _are_alike(values: Sequence[Any], without: int) -> bool:
    """Whether these are tensors of one type and, but for their first `without` dimensions, of one shape."""
    if not values or not all(isinstance(value, torch.Tensor) for value in values):
        return False
    return len({(value.dtype, value.shape[without:], value.device) for value in values}) == 1
