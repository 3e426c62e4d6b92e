"""Tests of the `ts` package find it as workers do: first on the import path."""

from __future__ import annotations

import importlib
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from wfserve.child.surroundings import COMPAT

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL_FILES = ("model", "models")


@pytest.fixture(autouse=True)
def _compat(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(COMPAT)
    for name in MODEL_FILES:
        monkeypatch.delitem(sys.modules, name, raising=False)


@pytest.fixture
def context_of(tmp_path: Path) -> Callable[..., Any]:
    """Make a Context of an archive in `tmp_path`, for `size` requests with the same headers."""

    def make(
        names: dict[str, str] | None = None,
        headers: dict[str, str] | None = None,
        config: dict[str, Any] | None = None,
        size: int = 1,
    ) -> Any:
        module = importlib.import_module("ts.context")
        store = importlib.import_module("ts.metrics.metrics_store").MetricsStore({}, "m")
        manifest = {"model": {"modelName": "m", "modelVersion": "2.0", **(names or {})}}
        context = module.Context(
            "m", str(tmp_path), manifest, size, None, metrics=store, model_yaml_config=config
        )
        context.request_ids = {index: f"id-{index}" for index in range(size)}
        context.request_processor = [module.RequestProcessor(headers or {}) for _ in range(size)]
        return context

    return make


@pytest.fixture
def loaded(context_of: Callable[..., Any], tmp_path: Path) -> Callable[..., Any]:
    """Initialise `class_name` of `ts.torch_handler.<module>` with a model file, or with `names`."""

    def make(
        module: str, class_name: str, model: str = "", names: dict[str, str] | None = None, **config: Any
    ) -> Any:
        if model:
            (tmp_path / "model.py").write_text(textwrap.dedent(model))
            names = {"modelFile": "model.py"}
        handler = getattr(importlib.import_module(f"ts.torch_handler.{module}"), class_name)()
        handler.initialize(context_of(names, config=config))
        return handler

    return make
