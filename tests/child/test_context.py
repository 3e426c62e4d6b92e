"""Every attribute a handler may ask its context for."""

from __future__ import annotations

import copy
import pickle
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import yaml

from wfserve.child.context import Job, NodeContext
from wfserve.child.headers import Headers
from wfserve.child.spec import WorkerSpec

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def spec(**fields: Any) -> WorkerSpec:
    return WorkerSpec("flow__node", "h.py", "/archive", **fields)


def begun(headers: Sequence[tuple[str, str]] = (), **fields: Any) -> tuple[NodeContext, Any]:
    node = NodeContext(spec(**fields))
    encoded = orjson.dumps([list(pair) for pair in headers])
    node.begin([Job("id-0", Headers(encoded), {}), Job("id-1", Headers(b"[]"), {})], "flow__node")
    return node, node.context


def test_what_it_says_of_the_model() -> None:
    _, context = begun(
        manifest={"model": {"modelName": "node"}}, model_config={"pt2": "inductor"}, batch_size=4, gpu_id=1
    )
    assert context.model_name == "flow__node"
    assert context.manifest == {"model": {"modelName": "node"}}
    assert context.model_yaml_config == {"pt2": "inductor"}
    properties = dict(context.system_properties)
    assert properties.pop("server_version") == "0.12.0"
    assert properties == {
        "model_dir": "/archive",
        "gpu_id": 1,
        "batch_size": 4,
        "server_name": "MMS",
        "limit_max_image_pixels": True,
    }


def test_a_function_node_has_no_manifest_and_no_configuration() -> None:
    _, context = begun(is_function=True, limit_max_image_pixels=False)
    assert context.manifest is None
    assert context.model_yaml_config == {}
    assert context.system_properties["gpu_id"] is None
    assert context.system_properties["limit_max_image_pixels"] is False


def test_request_ids() -> None:
    _, context = begun()
    assert context.request_ids == {0: "id-0", 1: "id-1"}
    assert [context.get_request_id(), context.get_request_id(1), context.get_request_id(2)] == [
        "id-0",
        "id-1",
        None,
    ]


def test_headers_keep_their_spelling_and_are_found_in_any() -> None:
    _, context = begun([("X-Custom", "1"), ("accept", "a"), ("accept", "b")])
    assert context.get_all_request_header(0) == {"X-Custom": "1", "accept": "b"}
    assert context.get_request_header(0, "x-custom") == "1"
    assert context.get_request_header(0, "Accept") == "b"
    assert context.get_request_header(0, "other") is None
    assert context.get_all_request_header(1) == {}
    assert context.request_processor[0].get_request_property("X-CUSTOM") == "1"


def test_parameters_appear_among_the_headers() -> None:
    headers = Headers(b'[["data","header"]]')
    headers.add_parameters({"body": "text/plain", "data": ""})
    assert dict(headers) == {"body": {"content-type": "text/plain"}, "data": "header"}


def test_an_entry_is_found_in_any_case() -> None:
    """What is spelled so comes first, then a parameter, then the first header of the client's."""
    headers = Headers(b'[["Accept","a"],["ACCEPT","b"],["DATA","c"]]')
    headers.add_parameters({"Data": "text/plain"})
    assert [headers.named(name) for name in ("ACCEPT", "accept")] == ["b", "a"]
    assert headers.named("DATA") == "c"
    assert headers.named("data") == {"content-type": "text/plain"}
    assert (headers.find("accept"), headers.find("data"), headers.named("none")) == ("a", "c", None)


def test_equal_headers_do_not_share_what_is_added() -> None:
    first, second = Headers(b'[["a","1"]]'), Headers(b'[["a","1"]]')
    first.add_parameters({"body": ""})
    assert (dict(first), dict(second)) == ({"body": {"content-type": ""}, "a": "1"}, {"a": "1"})


def test_a_status_that_is_set_before_any_request_is_nobodys() -> None:
    context = NodeContext(spec()).context
    context.set_response_status(500)
    context.set_all_response_status(500)
    assert context.get_request_id() is None


METRICS = """
model_metrics:
  counter:
    - name: Seen
      unit: count
      dimensions: [Kind]
"""


def test_metrics_that_a_file_defines(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text(METRICS)
    node = NodeContext(spec(metrics_config=str(tmp_path / "metrics.yaml")))
    node.context.metrics.get_metric("Seen").add_or_update(2, ["a"])
    assert orjson.loads(node.take_metrics()) == [["Seen", "Count", "counter", 2.0, {"Kind": "a"}]]


def test_a_metrics_file_that_is_wrong_fails_the_load(tmp_path: Path) -> None:
    (tmp_path / "metrics.yaml").write_text("model_metrics: [")
    with pytest.raises(yaml.YAMLError, match="Error parsing file"):
        NodeContext(spec(metrics_config=str(tmp_path / "metrics.yaml")))


def test_sequence_and_stopping() -> None:
    _, context = begun([("ts_request_sequence_id", "s1")])
    assert context.get_sequence_id(0) == "s1"
    assert context.get_sequence_id(1) is None
    assert context.stopping_criteria is None


def test_nothing_set_is_an_empty_response() -> None:
    node, context = begun()
    assert [node.response(0), node.response(1)] == [b"", b""]
    assert context.get_response_status(0) == (200, None)
    assert context.get_response_content_type(0) is None


def test_what_a_handler_sets_reaches_the_response() -> None:
    node, context = begun()
    context.set_response_content_type(0, "image/png")
    context.set_response_header(0, "X-Model", "v1")
    context.set_response_status(code=201, phrase="Created", idx=0)
    assert context.get_response_content_type(0) == "image/png"
    assert context.get_response_headers(0) == {"content-type": "image/png", "X-Model": "v1"}
    assert context.get_response_status(0) == (201, "Created")
    assert orjson.loads(node.response(0)) == {
        "status": 201,
        "content_type": "image/png",
        "headers": {"X-Model": "v1"},
    }
    assert node.response(1) == b""


def test_the_status_of_all() -> None:
    node, context = begun()
    context.set_all_response_status(503, "Busy")
    assert [orjson.loads(node.response(index)) for index in (0, 1)] == [{"status": 503}] * 2


def test_the_request_processor_directly() -> None:
    node, context = begun()
    context.request_processor[1].report_status(404, "Nope")
    context.request_processor[1].add_response_property("Content-Type", "text/plain")
    assert orjson.loads(node.response(1)) == {"status": 404, "content_type": "text/plain"}


def test_the_same_context_is_told_of_each_batch() -> None:
    node, context = begun([("a", "1")])
    context.metrics.add_counter("seen", 1)
    assert b'"seen"' in node.take_metrics()
    node.begin([Job("id-9", Headers(b""), {})], "flow__node")
    assert node.context is context
    assert context.request_ids == {0: "id-9"}
    assert context.get_all_request_header(0) == {}
    assert node.take_metrics() == b""


@pytest.mark.parametrize("encoded", [b"", b"[]"])
def test_no_headers(encoded: bytes) -> None:
    assert dict(Headers(encoded)) == {}
    assert Headers(encoded).content_type() == ""


@pytest.mark.parametrize(
    "speak",
    [
        lambda context: context.set_response_header(0, "a", "b"),
        lambda context: context.set_response_status(418),
        lambda context: context.set_all_response_status(418),
        lambda context: context.get_response_headers(0).update(a="b"),
        lambda context: setattr(context, "request_processor", [object()]),
    ],
)
def test_what_a_handler_sets_is_asked_for(speak: Callable[[Any], object]) -> None:
    node, context = begun()
    context.get_request_header(0, "a")
    assert node.is_silent()
    speak(context)
    assert not node.is_silent()
    node.begin([Job("id-9", Headers(b""), {})], "flow__node")
    assert node.is_silent()


@pytest.mark.parametrize("copied", [copy.copy, copy.deepcopy, lambda each: pickle.loads(pickle.dumps(each))])
def test_headers_are_as_open_as_any_object(copied: Callable[[Headers], Headers]) -> None:
    class Own(Headers):
        """A handler's."""

    headers = Headers(b'[["Kind", "cat"]]')
    headers.add_parameters({"body": "text/plain"})
    assert dict(copied(headers)) == {"body": {"content-type": "text/plain"}, "Kind": "cat"}
    assert Own(b'[["Kind", "cat"]]').find("kind") == "cat"


def test_a_context_is_the_handlers_to_change_and_to_copy() -> None:
    _, context = begun([("Kind", "cat")])
    context.own_attribute = 1
    copied = copy.deepcopy(context)
    assert copied.own_attribute == 1
    assert copied.get_all_request_header(0) == {"Kind": "cat"}
