"""Requests `{"instances": […]}` are joined to one batch; each is answered `{"predictions": […]}`.

The row format of TensorFlow Serving's REST API: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from ...utils.util import PredictionException
from .base import BaseEnvelope, message, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class JSONEnvelope(BaseEnvelope):
    """A row is an instance; `{"b64": text}` in it stands for bytes."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        """Return the instances of all requests."""
        requests = [message(row, "instances")["instances"] for row in data]
        self._lengths = [len(instances) for instances in requests]
        return [_decoded(instance) for instances in requests for instance in instances]

    def format_output(self, data: Sequence[Any]) -> list[str]:
        """Return a JSON text for each request."""
        return [json.dumps({"predictions": part}) for part in split(data, self._lengths)]


def _decoded(instance: Any) -> Any:
    """Return the instance with bytes where it, or a column of it, says base64."""
    if not isinstance(instance, dict):
        return instance
    if _is_base64(instance):
        return _bytes(instance)
    return {name: _bytes(value) if _is_base64(value) else value for name, value in instance.items()}


def _is_base64(value: Any) -> bool:
    return isinstance(value, dict) and value.keys() == {"b64"}


def _bytes(value: dict[str, Any]) -> bytes:
    try:
        return b64decode(value["b64"])
    except (TypeError, ValueError) as error:
        raise PredictionException(f"an instance is not base64: {error}", 400) from None
