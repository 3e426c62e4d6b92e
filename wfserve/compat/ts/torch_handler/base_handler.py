"""A handler turns a batch of rows into a list of results: preprocess, inference, postprocess.

Subclasses replace any of the three, or `initialize`. The model is loaded by what the archive holds: a model
file with its weights, TorchScript, ONNX, or an exported program.
"""

from __future__ import annotations

import importlib
import importlib.util
import logging
import os
import tempfile
import time
from typing import TYPE_CHECKING, Any

import torch
from torch.profiler import ProfilerActivity, profile, record_function, tensorboard_trace_handler

from ..handler_utils.timer import timed
from ..utils.pt2 import compile_options, compiled, is_aot_compiled, load_exported
from ..utils.util import list_classes_from_module, load_label_mapping

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from ..context import Context

logger = logging.getLogger(__name__)

PROFILER_AVAILABLE = True
"""Handlers ask; every torch that wfserve runs on has a profiler."""


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
        self.model_pt_path: str | None = None
        self.model_yaml_config: dict[str, Any] = {}
        self.explain = False
        self.target = 0
        self.profiler_args: dict[str, Any] = {}

    def initialize(self, context: Context) -> None:
        """Load the model that the manifest names, and compile it if the configuration asks for that.

        Raises `RuntimeError` if the archive holds no weights, `FileNotFoundError` if the manifest names a
        file that is not there, `ValueError` if the model file does not define exactly one class or `pt2` of
        the configuration has the wrong form.
        """
        self.context = context
        self.manifest = context.manifest
        self.model_yaml_config = context.model_yaml_config
        properties = context.system_properties
        self.device = _device(properties.get("gpu_id"))
        self.map_location = self.device.type
        model_dir = properties["model_dir"]
        self.model = self._load_model(model_dir, (self.manifest or {}).get("model", {}))
        options = compile_options(self.model_yaml_config)
        if options is not None:
            self.model = compiled(self.model, options)
        self.mapping = load_label_mapping(os.path.join(model_dir, "index_to_name.json"))
        self.initialized = True

    def _load_model(self, model_dir: str, names: dict[str, str]) -> Any:
        weights = names.get("serializedFile", "")
        path = os.path.join(model_dir, weights)
        self.model_pt_path = path if weights else None
        if weights and not os.path.exists(path):
            raise FileNotFoundError(f"Missing the serialized file {weights}")
        if names.get("modelFile"):
            model = self._load_pickled_model(model_dir, names["modelFile"], self.model_pt_path)
            return model.to(self.device).eval()
        if weights.endswith(".pt"):
            return self._load_torchscript_model(path).eval()
        if weights.endswith(".onnx") and importlib.util.find_spec("onnxruntime"):
            return self._load_onnx_model(path)
        if weights.endswith(".pt2"):
            return load_exported(path, self.device)
        if weights.endswith(".so") and is_aot_compiled(self.model_yaml_config):
            return self._load_torch_export_aot_compile(path)
        raise RuntimeError("No model weights could be loaded")

    def _load_pickled_model(
        self, model_dir: str, model_file: str, model_pt_path: str | None
    ) -> torch.nn.Module:
        """Build the one class of `model_file`; its state dict is in `model_pt_path`, unless that is None."""
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
        return model

    def _load_torchscript_model(self, model_pt_path: str) -> Any:
        return torch.jit.load(model_pt_path, map_location=self.device)  # type: ignore[no-untyped-call]

    def _load_onnx_model(self, path: str) -> Any:
        """Open an ONNX Runtime session, on the worker's GPU if it has one, with the worker's threads."""
        onnxruntime = importlib.import_module("onnxruntime")
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = torch.get_num_threads()
        providers: list[Any] = ["CPUExecutionProvider"]
        if self.device.type == "cuda":
            providers.insert(0, ("CUDAExecutionProvider", {"device_id": self.device.index}))
        return onnxruntime.InferenceSession(path, options, providers=providers)

    def _load_torch_export_aot_compile(self, model_so_path: str) -> Any:
        if self.device.type == "cuda":
            torch.cuda.set_device(self.device)  # the loader knows kinds of devices, not which one
        return torch._export.aot_load(model_so_path, self.device.type)

    @timed
    def preprocess(self, data: Sequence[Any]) -> Any:
        """Return the rows' values (under `data` or `body`, or the rows themselves) as one tensor [B, …]."""
        values = [row_value(row) for row in data]
        if values and all(isinstance(value, torch.Tensor) for value in values):
            if hasattr(data, "stack"):  # a native batch, which may lie together already
                return data.stack(values, self.device)
            return torch.stack(values).to(self.device)
        return torch.as_tensor(values, device=self.device)

    @timed
    def inference(self, data: Any, *args: Any, **kwargs: Any) -> Any:
        """Run the model on what `preprocess` returned; an ONNX session gets a tensor as its first input."""
        # A module is asked nothing that it lacks: its `__getattr__` takes a while to say so.
        if not isinstance(self.model, torch.nn.Module) and hasattr(self.model, "get_inputs"):
            return self._run_session(data)
        with torch.inference_mode():
            return self.model(data.to(self.device), *args, **kwargs)

    def _run_session(self, data: torch.Tensor) -> Any:
        """Return the session's output as a tensor, or a list of them if it has several."""
        name = self.model.get_inputs()[0].name
        outputs = [torch.from_numpy(each) for each in self.model.run(None, {name: data.numpy(force=True)})]
        return outputs[0] if len(outputs) == 1 else outputs

    @timed
    def postprocess(self, data: Any) -> list[Any]:
        """Return a result for each row [B]."""
        results: list[Any] = data.tolist()
        return results

    def handle(self, data: Sequence[Any], context: Context) -> list[Any]:
        """Answer a batch: one result for each row, or an explanation or a description if a header asks.

        With `ENABLE_TORCH_PROFILER` in the environment, a trace is written for each batch.
        """
        return self.answer(data, context, self._predict)

    def answer(
        self, data: Sequence[Any], context: Context, predict: Callable[[Sequence[Any]], list[Any]]
    ) -> list[Any]:
        """Do as `handle`, with `predict` in place of the three steps; time it as `HandlerTime`."""
        started = time.perf_counter()
        self.context = context
        if os.environ.get("ENABLE_TORCH_PROFILER"):
            output, _ = self._infer_with_profiler(data)
        elif self._is_describe():
            output = [self.describe_handle()]
        elif self._is_explain():
            output = self.explain_handle(self.preprocess(data), data)
        else:
            output = predict(data)
        if context.metrics is not None:
            elapsed = (time.perf_counter() - started) * 1000
            context.metrics.add_time("HandlerTime", round(elapsed, 2), None, "ms")
        return output

    def _predict(self, data: Sequence[Any]) -> list[Any]:
        return self.postprocess(self.inference(self.preprocess(data)))

    def _infer_with_profiler(self, data: Sequence[Any]) -> tuple[list[Any], Any]:
        """Return the results and the profiler that watched; `profiler_args` are the profiler's own.

        Unless they say otherwise, traces for TensorBoard go to `pytorch_profiler/<model name>` in the
        directory for temporary files.
        """
        name = ((self.manifest or {}).get("model") or {}).get("modelName", "")
        directory = os.path.join(tempfile.gettempdir(), "pytorch_profiler", name)
        self.profiler_args = self.profiler_args or {"activities": _activities(), "record_shapes": True}
        self.profiler_args.setdefault("on_trace_ready", tensorboard_trace_handler(directory))
        with profile(**self.profiler_args) as profiler:
            with record_function("preprocess"):
                prepared = self.preprocess(data)
            if self._is_explain():
                with record_function("explain"):
                    output = self.explain_handle(prepared, data)
            else:
                with record_function("inference"):
                    computed = self.inference(prepared)
                with record_function("postprocess"):
                    output = self.postprocess(computed)
        logger.info(profiler.key_averages().table(sort_by="cpu_time_total", row_limit=10))
        return output, profiler

    def explain_handle(self, data_preprocess: Any, raw_data: Sequence[Any]) -> Any:
        """Explain the batch through the subclass's `get_insights(prepared, inputs, target)`.

        `inputs` and `target` (a class index, 0 if it names none) are those of the first row. Raises
        `NotImplementedError` if the subclass explains nothing.
        """
        get_insights = getattr(self, "get_insights", None)
        if get_insights is None:
            raise NotImplementedError(f"{type(self).__name__} has no get_insights and explains nothing")
        row = raw_data[0]
        target = row.get("target") if isinstance(row, dict) else None
        return get_insights(data_preprocess, row_value(row), int(target or 0))

    def describe_handle(self) -> Any:
        """Describe the model; subclasses say what they like."""
        return None

    def get_device(self) -> torch.device:
        """Return where the model is."""
        return self.device

    def _is_explain(self) -> bool:
        self.explain = self._asks_for("explain")
        return self.explain

    def _is_describe(self) -> bool:
        return self._asks_for("describe")

    def _asks_for(self, header: str) -> bool:
        return self.context is not None and bool(self.context.get_request_header(0, header) == "True")


def row_value(row: Any) -> Any:
    """Return what a row carries: `data`, or `body` where that is missing or empty; else the row itself."""
    if not isinstance(row, dict):
        return row
    value = row.get("data")
    # A tensor or an array must not be asked for its truth.
    is_empty = value is None or (isinstance(value, (bytes, bytearray, str, list, dict)) and not value)
    return row.get("body") if is_empty else value


def _device(gpu_id: int | str | None) -> torch.device:
    """Return the worker's GPU, if it has one; there, matrices multiply as TorchServe lets them."""
    if gpu_id is None:
        return torch.device("cpu")
    if torch.cuda.is_available():
        if torch.version.cuda and torch.cuda.get_device_capability(int(gpu_id)) >= (8, 0):
            torch.set_float32_matmul_precision("high")  # TF32, as from Ampere on
        return torch.device("cuda", int(gpu_id))
    return torch.device("xpu", int(gpu_id)) if torch.xpu.is_available() else torch.device("cpu")


def _activities() -> list[ProfilerActivity]:
    cuda = [ProfilerActivity.CUDA] if torch.cuda.is_available() else []
    return [ProfilerActivity.CPU, *cuda]
