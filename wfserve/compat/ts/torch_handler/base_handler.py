"""A handler turns a batch of rows into a list of results: preprocess, inference, postprocess.

Subclasses replace any of the three, or `initialize`. The model is loaded by what the archive holds: a model
file with its weights, TorchScript, ONNX, or an exported program.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import time
from typing import TYPE_CHECKING, Any

import torch

from ..utils.util import list_classes_from_module, load_label_mapping

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..context import Context

logger = logging.getLogger(__name__)


class BaseHandler:
    """Loads the model of an archive and runs it on batches."""

    def __init__(self) -> None:
        self.model: Any = None
        self.mapping: dict[str, Any] | None = None
        self.device: torch.device = torch.device("cpu")
        self.map_location = "cpu"
        self.initialized = False
        self.context: Context | None = None
        self.manifest: Any = None
        self.model_yaml_config: dict[str, Any] = {}
        self.explain = False
        self.target = 0

    def initialize(self, context: Context) -> None:
        """Load the model that the manifest names.

        Raises `RuntimeError` if the archive holds no weights, `FileNotFoundError` if the manifest names a
        file that is not there, `ValueError` if the model file does not define exactly one class.
        """
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        properties = context.system_properties
        self.device = _device(properties.get("gpu_id"))
        self.map_location = self.device.type
        model_dir = properties["model_dir"]
        self.model = self._load_model(model_dir, (self.manifest or {}).get("model", {}))
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _load_model(self, model_dir: str, names: dict[str, str]) -> Any:
        weights = names.get("serializedFile", "")
        path = os.path.join(model_dir, weights)
        if weights and not os.path.isfile(path):
            raise FileNotFoundError(f"Missing the serialized file {weights}")
        if names.get("modelFile"):
            return self._load_pickled_model(model_dir, names["modelFile"], path if weights else "")
        if weights.endswith(".pt"):
            return self._load_torchscript_model(path)
        if weights.endswith(".onnx") and importlib.util.find_spec("onnxruntime"):
            return self._load_onnx_model(path)
        if weights.endswith(".pt2"):
            return torch.export.load(path).module().to(self.device)
        if weights.endswith(".so") and _is_aot_compiled(self.model_yaml_config):
            return self._load_torch_export_aot_compile(path)
        raise RuntimeError("No model weights could be loaded")

    def _load_pickled_model(self, model_dir: str, model_file: str, model_pt_path: str) -> torch.nn.Module:
        """Build the one class of `model_file`; its state dict is in `model_pt_path`, unless that is empty."""
        if not os.path.isfile(os.path.join(model_dir, model_file)):
            raise FileNotFoundError(f"Missing the model file {model_file}")
        module = importlib.import_module(os.path.splitext(os.path.basename(model_file))[0])
        classes = list_classes_from_module(module)
        if len(classes) != 1:
            found = ", ".join(each.__name__ for each in classes) or "none"
            raise ValueError(f"Expected only one class as model definition in {model_file}, found {found}")
        model: torch.nn.Module = classes[0]()
        if model_pt_path:
            # Old archives pickle more than tensors; the archive's own code runs here anyway.
            model.load_state_dict(torch.load(model_pt_path, map_location=self.device, weights_only=False))
        return model.to(self.device).eval()

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device).eval()  # type: ignore[no-untyped-call]

    def _load_onnx_model(self, path: str) -> Any:
        """Open an ONNX Runtime session, on the worker's GPU if it has one."""
        onnxruntime = importlib.import_module("onnxruntime")
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": self.device.index}))
        return onnxruntime.InferenceSession(path, providers=providers)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        return torch._export.aot_load(model_so_path, self.device.type)

    def preprocess(self, data: Sequence[Any]) -> Any:
        """Return the rows' values (under `data` or `body`, or the rows themselves) as one tensor [B, …]."""
        values = [_value(row) for row in data]
        if values and all(isinstance(value, torch.Tensor) for value in values):
            return torch.stack(values).to(self.device)
        return torch.as_tensor(values, device=self.device)

    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on what `preprocess` returned."""
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def postprocess(self, data: Any) -> list[Any]:
        """Return a result for each row [B]."""
        results: list[Any] = data.tolist()
        return results

    def handle(self, data: Sequence[Any], context: Context) -> list[Any]:
        """Answer a batch: one result for each row, or an explanation or a description if a header asks."""
        started = time.perf_counter()
        self.context = context
        output = [self.describe_handle()] if self._is_describe() else self._answer(data)
        if context.metrics is not None:
            elapsed = (time.perf_counter() - started) * 1000
            context.metrics.add_time("HandlerTime", round(elapsed, 2), None, "ms")
        return output

    def _answer(self, data: Sequence[Any]) -> list[Any]:
        prepared = self.preprocess(data)
        if self._is_explain():
            return self.explain_handle(prepared, data)
        return self.postprocess(self.inference(prepared))

    def explain_handle(self, data_preprocess: Any, raw_data: Sequence[Any]) -> list[Any]:
        """Explain the first row through the subclass's `get_insights(prepared, inputs, target)`.

        A JSON row names its `target`. Raises `NotImplementedError` if the subclass explains nothing.
        """
        get_insights = getattr(self, "get_insights", None)
        if get_insights is None:
            raise NotImplementedError(f"{type(self).__name__} has no get_insights and explains nothing")
        inputs = _value(raw_data[0])
        target = inputs.get("target", 0) if isinstance(inputs, dict) else 0
        return [get_insights(data_preprocess, inputs, target)]

    def describe_handle(self) -> Any:
        """Describe the model; subclasses say what they like."""
        return None

    def _is_explain(self) -> bool:
        self.explain = self._asks_for("explain")
        return self.explain

    def _is_describe(self) -> bool:
        return self._asks_for("describe")

    def _asks_for(self, header: str) -> bool:
        if self.context is None or not self.context.request_processor:
            return False
        return bool(self.context.get_request_header(0, header) == "True")


def _value(row: Any) -> Any:
    """Return what a row carries; `data` comes first, and a tensor there must not be asked for its truth."""
    if not isinstance(row, dict):
        return row
    value = row.get("data")
    return row.get("body") if value is None else value


def _device(gpu_id: int | str | None) -> torch.device:
    if gpu_id is not None and torch.cuda.is_available():
        return torch.device("cuda", int(gpu_id))
    if torch.xpu.is_available():
        return torch.device("xpu")
    return torch.device("cpu")


def _is_aot_compiled(model_yaml_config: dict[str, Any]) -> bool:
    pt2 = model_yaml_config.get("pt2")
    export = pt2.get("export") if isinstance(pt2, dict) else None
    return isinstance(export, dict) and bool(export.get("aot_compile"))
