"""Handlers get our `ts`, whatever else is installed, and all of what they import from it."""

from __future__ import annotations

import importlib
import io
import os
import subprocess
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest
import torch

from wfserve.child.handler import load_entry
from wfserve.child.surroundings import COMPAT, import_path

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

WORKER = """
    import importlib, sys
    sys.path[:0] = {first!r}
    sys.path.append({installed!r})
    import ts
    assert ts.__file__ == {ours!r}, ts.__file__
    from ts.torch_handler.base_handler import BaseHandler
    assert not hasattr(BaseHandler, "theirs")
    try:
        importlib.import_module("ts.model_server")
    except ModuleNotFoundError as error:
        print(error.name)
"""


@pytest.mark.parametrize("on_pythonpath", [True, False])
def test_an_installed_torchserve_does_not_get_in_the_way(tmp_path: Path, on_pythonpath: bool) -> None:
    installed, archive = tmp_path / "installed", tmp_path / "archive"
    for package in (installed / "ts", installed / "ts" / "torch_handler"):
        package.mkdir(parents=True)
        (package / "__init__.py").write_text("raise AssertionError('the other ts')")
    (installed / "ts" / "model_server.py").touch()
    (installed / "ts" / "torch_handler" / "base_handler.py").write_text("class BaseHandler: theirs = 1")
    archive.mkdir()
    inherited = [str(installed)] if on_pythonpath else []
    script = textwrap.dedent(WORKER).format(
        first=import_path(str(archive), inherited),
        installed=str(installed),
        ours=os.path.join(COMPAT, "ts", "__init__.py"),
    )
    run = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert (run.returncode, run.stdout) == (0, "ts.model_server\n"), run.stderr


@pytest.mark.parametrize(
    "name",
    [
        "ts.context.Context",
        "ts.context.RequestProcessor",
        "ts.handler_utils.micro_batching.MicroBatching",
        "ts.handler_utils.text_utils.get_tokenizer",
        "ts.handler_utils.timer.timed",
        "ts.handler_utils.utils.import_class",
        "ts.handler_utils.utils.send_intermediate_predict_response",
        "ts.metrics.caching_metric.CachingMetric",
        "ts.metrics.dimension.Dimension",
        "ts.metrics.metric.Metric",
        "ts.metrics.metric_cache_errors.MetricsCacheKeyError",
        "ts.metrics.metric_cache_yaml_impl.MetricsCacheYamlImpl",
        "ts.metrics.metric_type_enum.MetricTypes",
        "ts.metrics.metrics_store.MetricsStore",
        "ts.metrics.unit.Units",
        "ts.protocol.otf_message_handler.send_intermediate_predict_response",
        "ts.service.emit_metrics",
        "ts.torch_handler.base_handler.BaseHandler",
        "ts.torch_handler.base_handler.PROFILER_AVAILABLE",
        "ts.torch_handler.contractions.CONTRACTION_MAP",
        "ts.torch_handler.request_envelope.base.BaseEnvelope",
        "ts.utils.util.CLEANUP_REGEX",
        "ts.utils.util.PredictionException",
        "ts.utils.util.check_valid_pt2_backend",
        "ts.utils.util.get_yaml_config",
        "ts.utils.util.list_classes_from_module",
        "ts.utils.util.load_label_mapping",
        "ts.utils.util.map_class_to_label",
    ],
)
def test_what_handlers_import_is_there(name: str) -> None:
    module, _, attribute = name.rpartition(".")
    assert hasattr(importlib.import_module(module), attribute)


@pytest.mark.parametrize(
    "handler", ["base_handler", "image_classifier", "image_segmenter", "object_detector", "densenet_handler"]
)
def test_a_manifest_may_name_a_default_handler(
    handler: str, context_of: Callable[..., Any], tmp_path: Path
) -> None:
    if handler.startswith(("image", "object")):
        pytest.importorskip("PIL")
    (tmp_path / "model.py").write_text("import torch\nclass M(torch.nn.Identity): pass")
    entry: Any = load_entry(handler, context_of({"modelFile": "model.py"}))
    assert entry.__self__.initialized
    assert entry.__func__.__module__ == "ts.torch_handler.base_handler"


def test_a_pipeline_hands_tensors_on(context_of: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import torch\nclass M(torch.nn.Identity): pass")
    entry = load_entry("densenet_handler", context_of({"modelFile": "model.py"}))
    file = io.BytesIO()
    torch.save(torch.tensor([1.0, 2.0]), file)
    rows = [{"data": file.getvalue()}, {"body": torch.tensor([3.0, 4.0])}]
    assert [each.tolist() for each in entry(rows, context_of(size=2))] == [[[1, 2]], [[3, 4]]]


def test_a_client_cannot_unpickle_more_than_tensors(context_of: Callable[..., Any], tmp_path: Path) -> None:
    (tmp_path / "model.py").write_text("import torch\nclass M(torch.nn.Identity): pass")
    entry = load_entry("densenet_handler", context_of({"modelFile": "model.py"}))
    file = io.BytesIO()
    torch.save(subprocess.Popen, file)
    with pytest.raises(Exception, match="Weights only load failed"):
        entry([{"body": file.getvalue()}], context_of())
