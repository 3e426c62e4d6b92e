"""What handlers use besides their base class: timing, dynamic imports, parts of batches, streaming."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable

IDENTITY = "import torch\nclass M(torch.nn.Identity): pass"


@pytest.mark.parametrize(
    ("config", "names"),
    [
        ({"profile": True}, ["ts_handler_preprocess", "ts_handler_inference", "ts_handler_postprocess"]),
        ({"profile": False}, []),
        ({}, []),
        (None, []),
    ],
)
def test_steps_are_timed_when_the_configuration_says_so(
    loaded: Callable[..., Any], context_of: Callable[..., Any], config: Any, names: list[str]
) -> None:
    handler = loaded("base_handler", "BaseHandler", IDENTITY)
    context = context_of(config={"handler": config})
    assert handler.handle([{"body": [1.0]}], context) == [[1]]
    assert [metric.name for metric in context.metrics.store] == [*names, "HandlerTime"]
    assert {metric.unit for metric in context.metrics.store} == {"Milliseconds"}


def test_a_timed_step_keeps_its_name() -> None:
    from ts.torch_handler.base_handler import BaseHandler

    assert BaseHandler.preprocess.__name__ == "preprocess"


def test_classes_are_imported_by_path() -> None:
    from ts.handler_utils.utils import import_class

    assert import_class("torch.nn.Linear") is torch.nn.Linear
    assert import_class("Linear", "torch.nn") is torch.nn.Linear
    assert import_class("nn.Linear", "torch") is torch.nn.Linear


@pytest.mark.parametrize(
    "name", ["", "Linear", "torch.nn.Missing", "torch.nn.functional", "missing_module.A"]
)
def test_what_is_no_class_is_not_imported(name: str) -> None:
    from ts.handler_utils.utils import import_class

    with pytest.raises(ImportError):
        import_class(name)


def test_streaming_is_refused_clearly(context_of: Callable[..., Any]) -> None:
    from ts.protocol.otf_message_handler import send_intermediate_predict_response
    from ts.utils.util import PredictionException

    with pytest.raises(PredictionException, match="m streams its response") as caught:
        send_intermediate_predict_response(["part"], {0: "id"}, "so far", 200, context_of())
    assert caught.value.error_code == 501


@pytest.fixture
def parted(loaded: Callable[..., Any]) -> Any:
    from ts.handler_utils.micro_batching import MicroBatching

    handler = loaded("base_handler", "BaseHandler", IDENTITY)
    handler.handle = MicroBatching(handler, 2)
    yield handler
    handler.handle.shutdown()


def test_parts_are_answered_in_order(parted: Any, context_of: Callable[..., Any]) -> None:
    parted.handle.parallelism = {"preprocess": 3, "inference": 2}
    assert parted.handle.parallelism == {"preprocess": 3, "inference": 2, "postprocess": 1}
    assert [len(names) for names in parted.handle.thread_groups.values()] == [3, 2, 1]
    context = context_of(size=7)
    assert parted.handle([{"body": [index]} for index in range(7)], context) == [[i] for i in range(7)]
    assert [metric.name for metric in context.metrics.store] == ["HandlerTime"]


def test_a_step_knows_its_part(
    parted: Any, context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int | None, int]] = []
    preprocess = parted.preprocess

    def noting(data: Any) -> Any:
        assert threading.current_thread().name in parted.handle.thread_groups["preprocess"]
        seen.append((parted.handle.get_micro_batch_idx(), len(data)))
        return preprocess(data)

    monkeypatch.setattr(parted, "preprocess", noting)
    parted.handle([[1], [2], [3]], context_of(size=3))
    assert seen == [(0, 2), (1, 1)]
    assert parted.handle.get_micro_batch_idx() is None


def test_parts_overlap(parted: Any, context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part's inference waits for the second part's preprocessing, which would else never end."""
    second_prepared = threading.Event()
    preprocess, inference = parted.preprocess, parted.inference

    def prepare(data: Any) -> Any:
        if parted.handle.get_micro_batch_idx() == 1:
            second_prepared.set()
        return preprocess(data)

    def infer(data: Any) -> Any:
        assert second_prepared.wait(10)
        return inference(data)

    monkeypatch.setattr(parted, "preprocess", prepare)
    monkeypatch.setattr(parted, "inference", infer)
    assert parted.handle([[1], [2], [3]], context_of(size=3)) == [[1], [2], [3]]


def test_a_part_that_fails_fails_the_batch(parted: Any, context_of: Callable[..., Any]) -> None:
    with pytest.raises(ValueError, match=r"too many dimensions|invalid|convert"):
        parted.handle([[1], [2], "text", [4]], context_of(size=4))
    assert parted.handle([[1]], context_of()) == [[1]]


def test_describing_needs_no_parts(parted: Any, context_of: Callable[..., Any]) -> None:
    assert parted.handle([[1]], context_of(headers={"describe": "True"})) == [None]


@pytest.mark.parametrize("parallelism", [{"cook": 2}, {"preprocess": 0}])
def test_parallelism_that_makes_no_sense(parted: Any, parallelism: dict[str, int]) -> None:
    with pytest.raises(ValueError, match=r"cook|greater than 0"):
        parted.handle.parallelism = parallelism
    assert parted.handle.parallelism["preprocess"] == 1
