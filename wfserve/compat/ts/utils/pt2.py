"""What `pt2` in model-config.yaml asks for: compiling a model, or loading one compiled ahead of time.

pt2: inductor                                    # a backend
pt2: {compile: {enable: true, backend: …, …}}    # options of torch.compile
pt2: {backend: …, …}                             # the same, as older archives spell it
pt2: {export: {aot_compile: true}}               # the serialized file is AOTInductor's
"""

from __future__ import annotations

import logging
import zipfile
from typing import TYPE_CHECKING, Any

import torch

if TYPE_CHECKING:
    from collections.abc import Mapping

logger = logging.getLogger(__name__)


def compile_options(model_yaml_config: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the options of `torch.compile` that are asked for, None if it is not.

    Raises `ValueError` if `pt2` or `pt2.compile` has the wrong form.
    """
    pt2 = model_yaml_config.get("pt2")
    if pt2 is None:
        return None
    if isinstance(pt2, str):
        return {"backend": pt2}
    if not isinstance(pt2, dict):
        raise ValueError("pt2 in the model configuration should be a backend's name or a map")
    if "compile" in pt2:
        return _enabled(pt2["compile"])
    return None if "export" in pt2 else dict(pt2)


def _enabled(options: Any) -> dict[str, Any] | None:
    if not isinstance(options, dict):
        raise ValueError("pt2.compile in the model configuration should be a map")
    rest = {name: value for name, value in options.items() if name != "enable"}
    return rest if options.get("enable") else None


def is_aot_compiled(model_yaml_config: Mapping[str, Any]) -> bool:
    """Say whether the configuration announces a library made by AOTInductor."""
    pt2 = model_yaml_config.get("pt2")
    export = pt2.get("export") if isinstance(pt2, dict) else None
    return isinstance(export, dict) and bool(export.get("aot_compile"))


def check_valid_pt2_backend(backend: str) -> bool:
    """Say whether this installation of torch can compile with `backend`; if not, log it."""
    if backend in torch.compiler.list_backends(exclude_tags=()):
        return True
    logger.warning("%s is not a backend of torch.compile here", backend)
    return False


def compiled(model: Any, options: dict[str, Any]) -> Any:
    """Return the model compiled, or as it is where that is impossible: an archive still serves then."""
    if "backend" in options and not check_valid_pt2_backend(options["backend"]):
        return model
    try:
        optimized = torch.compile(model, **options)
    except Exception as error:
        logger.warning("the model runs uncompiled; torch.compile with %s failed: %s", options, error)
        return model
    logger.info("the model is compiled with %s", options or "torch.compile's defaults")
    return optimized


def load_exported(path: str, device: torch.device) -> Any:
    """Load a `.pt2` file, be it a program of `torch.export.save` or a package of AOTInductor."""
    with zipfile.ZipFile(path) as archive:
        is_package = any("/aotinductor/" in name for name in archive.namelist())
    if not is_package:
        return torch.export.load(path).module().to(device)
    index = -1 if device.index is None else device.index
    return torch._inductor.aoti_load_package(path, device_index=index)
