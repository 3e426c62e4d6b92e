"""The base handler loads what archives hold, and runs it."""

from __future__ import annotations

import importlib
import json
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from pathlib import Path

HAS_ONNX = importlib.util.find_spec("onnxruntime") is not None
MODEL = """
    import torch
    class Double(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.factor = torch.nn.Parameter(torch.tensor(2.0))
        def forward(self, x):
            return x * self.factor
"""


class Double(torch.nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.factor = torch.nn.Parameter(torch.tensor(3.0))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * self.factor


def handler_of(tmp_path: Path, headers: dict[str, str] | None = None, **names: str) -> tuple[Any, Any]:
    context_module = importlib.import_module("ts.context")
    store = importlib.import_module("ts.metrics.metrics_store").MetricsStore({}, "m")
    context = context_module.Context("m", str(tmp_path), {"model": names}, 1, None, metrics=store)
    context.request_processor = [context_module.RequestProcessor(headers or {})]
    handler = importlib.import_module("ts.torch_handler.base_handler").BaseHandler()
    return handler, context


def answer(tmp_path: Path, **names: str) -> Any:
    handler, context = handler_of(tmp_path, **names)
    handler.initialize(context)
    assert handler.initialized
    return handler.handle([{"body": [1.0, 2.0]}, {"data": torch.tensor([3.0, 4.0]).tolist()}], context)


def test_eager_with_and_without_weights(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    torch.save(Double().state_dict(), tmp_path / "weights.bin")
    assert answer(tmp_path, modelFile="model.py") == [[2, 4], [6, 8]]
    assert answer(tmp_path, modelFile="model.py", serializedFile="weights.bin") == [[3, 6], [9, 12]]


def test_an_exported_program(tmp_path: Path) -> None:
    batch = torch.export.Dim("batch", min=1)
    program = torch.export.export(Double(), (torch.ones(3, 2),), dynamic_shapes=({0: batch},))
    torch.export.save(program, tmp_path / "double.pt2")
    assert answer(tmp_path, serializedFile="double.pt2") == [[3, 6], [9, 12]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_torchscript(tmp_path: Path) -> None:
    torch.jit.script(Double()).save(str(tmp_path / "double.pt"))
    assert answer(tmp_path, serializedFile="double.pt") == [[3, 6], [9, 12]]


@pytest.mark.parametrize(
    ("names", "error", "match"),
    [
        ({}, RuntimeError, "No model weights could be loaded"),
        ({"serializedFile": "gone.pt"}, FileNotFoundError, r"gone\.pt"),
        pytest.param(
            {"serializedFile": "weights.onnx"},
            RuntimeError,
            "No model weights could be loaded",
            marks=pytest.mark.skipif(HAS_ONNX, reason="onnxruntime would read the file"),
        ),
        ({"serializedFile": "weights.so"}, RuntimeError, "No model weights could be loaded"),
        ({"modelFile": "gone.py"}, FileNotFoundError, r"gone\.py"),
        ({"modelFile": "models.py"}, ValueError, "Expected only one class .* A, B"),
    ],
)
def test_what_cannot_be_loaded(
    tmp_path: Path, names: dict[str, str], error: type[Exception], match: str
) -> None:
    (tmp_path / "models.py").write_text("class A: pass\nclass B: pass\n")
    for name in ("weights.onnx", "weights.so"):
        (tmp_path / name).write_bytes(b"")
    handler, context = handler_of(tmp_path, **names)
    with pytest.raises(error, match=match):
        handler.initialize(context)


def test_labels_are_read(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    (tmp_path / "index_to_name.json").write_text(json.dumps({"0": "cat"}))
    handler, context = handler_of(tmp_path, modelFile="model.py")
    handler.initialize(context)
    assert handler.mapping == {"0": "cat"}


def test_preprocess_stacks_tensors_and_takes_plain_rows(tmp_path: Path) -> None:
    handler, _ = handler_of(tmp_path)
    rows = [{"data": torch.tensor([1.0, 2.0])}, {"body": torch.tensor([3.0, 4.0])}]
    assert handler.preprocess(rows).tolist() == [[1, 2], [3, 4]]
    assert handler.preprocess([[1.0, 2.0], [3.0, 4.0]]).tolist() == [[1, 2], [3, 4]]


def test_an_empty_data_makes_way_for_the_body(tmp_path: Path) -> None:
    handler, _ = handler_of(tmp_path)
    assert handler.preprocess([{"data": b"", "body": [1.0]}, {"data": [], "body": [2.0]}]).tolist() == [
        [1],
        [2],
    ]


def test_loaders_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "model.py").touch()
    handler, context = handler_of(tmp_path, modelFile="model.py")
    handler._load_pickled_model = lambda model_dir, model_file, model_pt_path: Double().train()
    handler.initialize(context)
    assert not handler.model.training
    assert handler.get_device() == torch.device("cpu")


@pytest.mark.filterwarnings("ignore")
def test_a_trace_is_written_when_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ENABLE_TORCH_PROFILER", "1")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    handler, context = handler_of(tmp_path, modelFile="model.py", modelName="m")
    handler.initialize(context)
    assert handler.handle([{"body": [1.0]}], context) == [[2]]
    (trace,) = (tmp_path / "pytorch_profiler" / "m").iterdir()
    assert '"inference"' in trace.read_text()
    handler.manifest = None
    handler.get_insights = lambda prepared, inputs, target: ["why"]
    context.request_processor[0]._request_header["explain"] = "True"
    assert handler.handle([{"body": [1.0]}], context) == ["why"]


def test_the_time_is_recorded(tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text(textwrap.dedent(MODEL))
    handler, context = handler_of(tmp_path, modelFile="model.py")
    handler.initialize(context)
    handler.handle([{"body": [1.0]}], context)
    assert [(metric.name, metric.unit) for metric in context.metrics.store] == [
        ("HandlerTime", "Milliseconds")
    ]


def test_describe_and_explain_are_asked_for_by_header(tmp_path: Path) -> None:
    handler, context = handler_of(tmp_path, {"describe": "True"})
    handler.describe_handle = lambda: {"about": "me"}
    assert handler.handle([{"body": [1.0]}], context) == [{"about": "me"}]
    handler, context = handler_of(tmp_path, {"explain": "True"})
    with pytest.raises(NotImplementedError, match="explains nothing"):
        handler.handle([{"body": [1.0]}], context)
    handler.get_insights = lambda prepared, inputs, target: [prepared.tolist(), inputs, target]
    assert handler.handle([{"body": [1.0]}], context) == [[[1.0]], [1.0], 0]
    assert handler.handle([{"body": [1.0], "target": bytearray(b"2")}], context) == [[[1.0]], [1.0], 2]
