"""Helpers that handlers of language models import by name."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any, NoReturn

from ..utils.util import PredictionException

if TYPE_CHECKING:
    from collections.abc import Mapping

    from ..context import Context


def import_class(class_name: str, module_prefix: str | None = None) -> type:
    """Return the class at a dotted path, which begins at `module_prefix` if one is given.

    Raises `ImportError` if the path names no module, or the module has no such class.
    """
    *package, name = class_name.split(".")
    module_name = ".".join(filter(None, [module_prefix, *package]))
    if not module_name or not name:
        raise ImportError(f"{class_name!r} does not name a module and a class")
    found = getattr(importlib.import_module(module_name), name, None)
    if not isinstance(found, type):
        raise ImportError(f"{module_name} has no class {name}")
    return found


def send_intermediate_predict_response(
    ret: list[Any], req_id_map: Mapping[int, str], message: str, code: int, context: Context
) -> NoReturn:
    """Refuse to stream: a node hands its children one result, so there is nowhere for a part to go.

    Raises `PredictionException`, which tells the client so.
    """
    raise PredictionException(f"{context.model_name} streams its response, which a workflow cannot", 501)
