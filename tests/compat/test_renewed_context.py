"""A Context tells a handler of its requests, and is renewed for each batch."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from wfserve.child.context import Job, NodeContext
from wfserve.child.headers import Headers
from wfserve.child.spec import WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable


def test_response_headers_are_read_back_one_by_one(context_of: Callable[..., Any]) -> None:
    processor = context_of().request_processor[0]
    processor.add_response_property("x-kind", "cat")
    assert processor.get_response_header("x-kind") == "cat"
    assert processor.get_response_header("x-other") is None


@pytest.mark.parametrize("name", [None, "x-conversation"])
def test_a_sequence_has_a_header(
    name: str | None, context_of: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    if name is not None:
        monkeypatch.setenv("TS_REQUEST_SEQUENCE_ID", name)
    context = context_of(headers={name or "ts_request_sequence_id": "s-1"})
    assert context.header_key_sequence_start == "ts_request_sequence_start"
    assert context.header_key_sequence_end == "ts_request_sequence_end"
    assert context.get_sequence_id(0) == "s-1"


def test_metrics_defined_at_load_are_there_for_every_batch() -> None:
    node = NodeContext(WorkerSpec("w__n", "handler.py", "."))
    metrics = node.context.metrics
    defined = metrics.add_metric_to_cache("calls", "count")
    for request_id in ("a", "b"):
        node.begin([Job(request_id, Headers(b""), {})], "w__n")
        defined.add_or_update(1)
        node.context.metrics.add_counter("seen", 1, 0)
        assert node.context.metrics is metrics
        assert [(each.name, each.value, each.request_id) for each in metrics.store] == [
            ("calls", 1, None),
            ("seen", 1, request_id),
        ]
        assert node.take_metrics()
