"""Every form a handler may have, and what each way to fail becomes."""

from __future__ import annotations

import dataclasses
from typing import TYPE_CHECKING, Any

import pytest

from wfserve.child.context import Job
from wfserve.child.handler import Answer, Handler
from wfserve.child.headers import Headers
from wfserve.transport.message import Fault

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.child.spec import WorkerSpec

    Make = Callable[..., WorkerSpec]


def jobs(*values: Any) -> list[Job]:
    return [Job(f"id-{index}", Headers(b""), {"body": value}) for index, value in enumerate(values)]


def values(spec: WorkerSpec, *bodies: Any) -> list[Any]:
    handler, every = Handler(spec), jobs(*bodies)
    parts = [[job] for job in every] if spec.is_function else [every]
    answers = [answer for part in parts for answer in handler.call(part)]
    return [answer.value if isinstance(answer, Answer) else answer for answer in answers]


MODULE = """
    calls = []
    def handle(data, context):
        calls.append(data)
        return data and [(row["body"], len(calls), calls[0]) for row in data]
    def other(data, context):
        return data and ["other"] * len(data)
"""

CLASS = """
    class Model:
        def initialize(self, context):
            self.dir = context.system_properties["model_dir"]
        def handle(self, data, context):
            return [self.dir] * len(data)
    class Helper:
        pass
"""


def test_a_function_named_handle_is_called_once_with_nothing(archive: Make) -> None:
    assert values(archive(MODULE), "a", "b") == [("a", 2, None), ("b", 2, None)]


def test_a_function_by_name(archive: Make) -> None:
    assert values(archive(MODULE, ":other"), "a") == ["other"]


def test_a_class_with_handle(archive: Make) -> None:
    spec = archive(CLASS)
    assert values(spec, "a") == [spec.model_dir]


def test_a_missing_function_falls_through_to_the_class(archive: Make) -> None:
    spec = archive(CLASS, ":missing")
    assert values(spec, "a") == [spec.model_dir]


def test_a_class_without_initialize_is_called_with_nothing(archive: Make) -> None:
    code = """
        class Model:
            seen = []
            def handle(self, data, context):
                self.seen.append(data)
                return data and [self.seen[0]]
    """
    assert values(archive(code), "a") == [None]


def test_the_directory_of_a_handler_does_not_matter(archive: Make) -> None:
    spec = archive(MODULE)
    assert values(dataclasses.replace(spec, handler=f"some/where/{spec.handler}:other"), "a") == ["other"]


def test_a_default_handler_by_name(archive: Make) -> None:
    spec = archive("", name="w__n", manifest={"model": {"serializedFile": "no.pt"}})
    with pytest.raises(FileNotFoundError, match=r"no\.pt"):
        Handler(dataclasses.replace(spec, handler="base_handler"))


@pytest.mark.parametrize(
    ("code", "handler", "match"),
    [
        ("x = 1", ":missing", "has no function missing.*: none"),
        ("class A:\n    def handle(self): pass\nclass B(A):\n    pass", "", "has no function handle.*: A, B"),
        ("import surely_not_there", "", "surely_not_there"),
    ],
)
def test_no_handler_is_an_import_error(archive: Make, code: str, handler: str, match: str) -> None:
    with pytest.raises(ImportError, match=match):
        Handler(archive(code, handler))


def test_a_handler_that_is_nowhere_is_named(archive: Make) -> None:
    with pytest.raises(ImportError, match="nowhere_to_be_found"):
        Handler(dataclasses.replace(archive(""), handler="nowhere_to_be_found"))


def test_a_model_gets_the_batch_and_a_function_each_item(archive: Make) -> None:
    code = "def handle(data, context): return data and [(len(data), context.get_request_id(0))] * len(data)"
    assert values(archive(code), "a", "b") == [(2, "id-0"), (2, "id-0")]
    assert values(archive(code, is_function=True), "a", "b") == [(1, "id-0"), (1, "id-1")]


@pytest.mark.parametrize(
    ("body", "code", "kind", "message"),
    [
        ("return tuple(data)", 503, "InternalServerException", "Invalid model predict output"),
        ("return None", 503, "InternalServerException", "Invalid model predict output"),
        ("return data[1:]", 503, "InternalServerException", "number of batch response mismatched"),
        ("raise ValueError('secret')", 503, "InternalServerException", "Prediction failed"),
        ("raise MemoryError", 507, "InternalServerException", "Out of resources"),
        ("raise RuntimeError('CUDA out of memory')", 507, "InternalServerException", "Out of resources"),
        ("raise PredictionException('no cat', 422)", 422, "PredictionException", "no cat"),
        ("raise PredictionException('no cat')", 500, "PredictionException", "no cat"),
        ("raise PredictionException('no cat', 'x')", 500, "PredictionException", "no cat"),
        ("raise PredictionException('no cat', 200)", 500, "PredictionException", "no cat"),
    ],
)
def test_failures(archive: Make, body: str, code: int, kind: str, message: str) -> None:
    source = f"""
        from ts.utils.util import PredictionException
        def handle(data, context):
            if data is None:
                return None
            {body}
    """
    assert values(archive(source), "a", "b") == [Fault(code, kind, message, splittable=True)] * 2
    assert values(archive(source), "a") == [Fault(code, kind, message, splittable=False)]
    assert values(archive(source, is_function=True), "a", "b") == [Fault(code, kind, message, False)] * 2


def test_a_function_that_fails_leaves_its_neighbours_alone(archive: Make) -> None:
    code = "def fn(data, context): return data and [1 / data[0]['body']]"
    one, fault, other = values(archive(code, ":fn", is_function=True), 1, 0, 2)
    assert (one, other) == (1.0, 0.5)
    assert fault.message == "Prediction failed"


def test_the_traceback_goes_to_the_log_with_the_request_ids(
    archive: Make, caplog: pytest.LogCaptureFixture
) -> None:
    values(archive("def handle(data, context): return data and data['secret']"), "a", "b")
    (record,) = caplog.records
    assert record.getMessage().startswith("flow__node failed for id-0, id-1\nTraceback")
    assert record.exc_info is None
