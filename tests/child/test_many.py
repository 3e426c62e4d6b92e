"""Rows of one input go to the handler as inputs, at most a batch at a time, and come back as one result."""

import pytest
import torch

from wfserve.child import many
from wfserve.child.context import Job
from wfserve.child.handler import Answer
from wfserve.child.headers import Headers
from wfserve.child.spec import WorkerSpec
from wfserve.transport.message import Fault, Form

SPEC = WorkerSpec("w__m", "h", "/", data_format="native", input_shape=(2,), batch_size=3)
FAULT = Fault(503, "E", "no")


def job(*rows):
    """A job of one row, or of several if they are lists."""
    return Job("id", Headers(b"[]"), {"body": torch.tensor(rows, dtype=torch.float32)})


class Handle:
    """Doubles each row, and notes how many it gets at a time."""

    def __init__(self, fails=()):
        self.sizes = []
        self.fails = fails

    def __call__(self, jobs):
        self.sizes.append(len(jobs))
        return [self.answer(each.row["body"]) for each in jobs]

    def answer(self, row):
        return FAULT if row[0].item() in self.fails else Answer(row * 2, b"said" if row[0] == 1 else b"")


def test_one_row_each_is_a_call_as_any_other():
    handle = Handle()
    answers = many.call(handle, [job(1, 2), job(3, 4)], SPEC, Form.WHOLE)
    assert [answer.value.tolist() for answer in answers] == [[2, 4], [6, 8]]
    assert handle.sizes == [2]


def test_many_rows_are_called_with_beside_others_and_never_more_than_a_batch():
    handle = Handle()
    jobs = [job([0, 0], [1, 1], [2, 2], [3, 3]), job(5, 5), job([7, 7])]
    answers = many.call(handle, jobs, SPEC, Form.WHOLE)
    assert [answer.value.tolist() for answer in answers] == [
        [[0, 0], [2, 2], [4, 4], [6, 6]],
        [10, 10],
        [[14, 14]],
    ]
    assert [answer.response for answer in answers] == [b"said", b"", b""]
    assert handle.sizes == [3, 3]


def test_a_fault_of_one_row_is_that_of_its_input_alone():
    jobs = [job([0, 0], [1, 1]), job([2, 2], [3, 3])]
    good, bad = many.call(Handle(fails={3}), jobs, SPEC, Form.WHOLE)
    assert good.value.shape == (2, 2)
    assert bad == FAULT


def test_no_rows_are_no_results_and_no_call():
    handle = Handle()
    empty = job()._replace(row={"body": torch.empty(0, 2)})
    assert many.call(handle, [empty], SPEC, Form.WHOLE) == [Answer([], b"")]
    assert handle.sizes == []


def test_more_than_a_batch_is_divided_evenly_where_it_may_be():
    handle = Handle()
    jobs = [job(*[[n, n] for n in range(7)]), job([8, 8], [9, 9])]
    division, answer = many.call(handle, jobs, SPEC, Form.DIVISIBLE)
    assert [len(part) for part in division.parts] == [3, 2, 2]
    assert torch.equal(torch.cat(division.parts), jobs[0].row["body"])
    assert answer.value.tolist() == [[16, 16], [18, 18]]
    assert handle.sizes == [2]


def test_what_came_with_other_fields_is_not_divided_for_parts_would_lack_them():
    rows = job(*[[n, n] for n in range(7)])
    beside = rows._replace(row={**rows.row, "threshold": b"0.5"})
    seen = []

    def handle(jobs):
        seen.extend(each.row["threshold"] for each in jobs)
        return [Answer(each.row["body"], b"") for each in jobs]

    (answer,) = many.call(handle, [beside], SPEC, Form.DIVISIBLE)
    assert torch.equal(answer.value, rows.row["body"])
    assert seen == [b"0.5"] * 7


def test_an_input_has_no_more_parts_than_are_worth_their_hops():
    (division,) = many.call(Handle(), [job(*[[0, 0]] * 1000)], SPEC, Form.DIVISIBLE)
    assert len(division.parts) == many.MOST_PARTS
    assert {len(part) for part in division.parts} == {15, 16}


def test_a_function_gets_one_at_a_time_and_may_use_its_memory_again():
    memory = torch.zeros(2)

    def handle(jobs):
        (only,) = jobs
        return [Answer(memory.copy_(only.row["body"]), b"")]

    spec = WorkerSpec("w__f", "h", "/", is_function=True, data_format="native", input_shape=(2,))
    (answer,) = many.call(handle, [job([1, 1], [2, 2])], spec, Form.WHOLE)
    assert answer.value.tolist() == [[1, 1], [2, 2]]


@pytest.mark.parametrize("shape", [(2, 1, 2), (2, 3), ()])
def test_what_has_not_the_declared_shape_is_one_input(shape):
    odd = job()._replace(row={"body": torch.zeros(shape)})
    seen = []
    many.call(lambda jobs: [seen.append(each.row["body"].shape) for each in jobs], [odd], SPEC, Form.WHOLE)
    assert seen == [shape]


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ([torch.ones(2, 3), torch.zeros(1, 3)], torch.tensor([[1.0] * 3] * 2 + [[0.0] * 3])),
        ([["a", "b"], ["c"]], ["a", "b", "c"]),
        ([torch.tensor([1, 2]), ["c"]], [1, 2, "c"]),
        ([torch.ones(1, 2), torch.ones(1, 3)], [[1, 1], [1, 1, 1]]),
    ],
)
def test_parts_are_put_together_in_order(values, expected):
    value, response = many.one_of_parts([(each, b"") for each in values])
    plain = (
        value.tolist()
        if isinstance(value, torch.Tensor)
        else [each.tolist() if isinstance(each, torch.Tensor) else each for each in value]
    )
    assert plain == (expected.tolist() if isinstance(expected, torch.Tensor) else expected)
    assert response == b""


def test_what_was_said_first_is_said():
    assert many.one_of_parts([([], b""), ([], b"one"), ([], b"two")]).response == b"one"
