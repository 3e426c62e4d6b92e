"""Models are compiled, or come compiled, as model-config.yaml and the serialized file say."""

from __future__ import annotations

import importlib.util
import shutil
from typing import TYPE_CHECKING, Any

import pytest
import torch

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

MODEL = """
    import torch
    class Double(torch.nn.Module):
        def forward(self, x):
            return x * 2
"""


class Triple(torch.nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x * 3


def pt2() -> Any:
    import ts.utils.pt2

    return ts.utils.pt2


@pytest.mark.parametrize(
    ("config", "options"),
    [
        ({}, None),
        ({"pt2": "inductor"}, {"backend": "inductor"}),
        ({"pt2": {"backend": "eager", "dynamic": True}}, {"backend": "eager", "dynamic": True}),
        ({"pt2": {"compile": {"enable": True, "mode": "reduce-overhead"}}}, {"mode": "reduce-overhead"}),
        ({"pt2": {"compile": {"enable": True}}}, {}),
        ({"pt2": {"compile": {"enable": False, "backend": "eager"}}}, None),
        ({"pt2": {"compile": {"backend": "eager"}}}, None),
        ({"pt2": {"export": {"aot_compile": True}}}, None),
    ],
)
def test_what_the_configuration_asks_for(config: Any, options: Any) -> None:
    before = repr(config)
    assert pt2().compile_options(config) == options
    assert repr(config) == before


@pytest.mark.parametrize("wrong", [["inductor"], 1, True, {"compile": True}])
def test_a_wrong_form_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="in the model configuration should be"):
        pt2().compile_options({"pt2": wrong})


@pytest.mark.parametrize(
    ("config", "says"),
    [
        ({"pt2": {"export": {"aot_compile": True}}}, True),
        ({"pt2": {"export": {"aot_compile": False}}}, False),
        ({"pt2": {"export": True}}, False),
        ({"pt2": "inductor"}, False),
        ({}, False),
    ],
)
def test_a_library_is_announced(config: Any, says: bool) -> None:
    assert pt2().is_aot_compiled(config) is says


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_model_is_compiled(loaded: Callable[..., Any], context_of: Callable[..., Any]) -> None:
    handler = loaded(
        "base_handler", "BaseHandler", MODEL, pt2={"compile": {"enable": True, "backend": "eager"}}
    )
    assert isinstance(handler.model, torch._dynamo.eval_frame.OptimizedModule)
    assert handler.handle([[1.0], [2.0]], context_of(size=2)) == [[2], [4]]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("pt2", ["made_up", {"mode": "made_up"}])
def test_a_model_that_cannot_be_compiled_serves_uncompiled(
    loaded: Callable[..., Any], context_of: Callable[..., Any], caplog: pytest.LogCaptureFixture, pt2: Any
) -> None:
    handler = loaded("base_handler", "BaseHandler", MODEL, pt2=pt2)
    assert "made_up" in caplog.text
    assert handler.handle([[1.0]], context_of()) == [[2]]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.skipif(importlib.util.find_spec("onnxruntime") is None, reason="needs onnxruntime")
def test_an_onnx_model(loaded: Callable[..., Any], context_of: Callable[..., Any], tmp_path: Path) -> None:
    pytest.importorskip("onnx")
    pytest.importorskip("onnxscript")
    torch.onnx.export(Triple().eval(), (torch.ones(2, 1),), tmp_path / "triple.onnx", dynamo=True)
    handler = loaded("base_handler", "BaseHandler", names={"serializedFile": "triple.onnx"})
    assert handler.handle([[1.0], [2.0]], context_of(size=2)) == [[3], [6]]


@pytest.mark.skipif(shutil.which("g++") is None, reason="AOTInductor needs a C++ compiler")
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("suffix", [".pt2", ".so"])
def test_a_model_compiled_ahead_of_time(
    suffix: str, loaded: Callable[..., Any], context_of: Callable[..., Any], tmp_path: Path
) -> None:
    path = str(tmp_path / f"triple{suffix}")
    args = (torch.ones(2, 1),)
    if suffix == ".pt2":
        torch._inductor.aoti_compile_and_package(torch.export.export(Triple(), args), package_path=path)
    else:
        torch._export.aot_compile(Triple(), args, options={"aot_inductor.output_path": path})
    config = {"pt2": {"export": {"aot_compile": True}}}
    handler = loaded("base_handler", "BaseHandler", names={"serializedFile": f"triple{suffix}"}, **config)
    assert handler.handle([[1.0], [2.0]], context_of(size=2)) == [[3], [6]]
