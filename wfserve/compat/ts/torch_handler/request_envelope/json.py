"""Instances and predictions in JSON, and `{"b64": text}` in an instance stands for bytes.

The row format of TensorFlow Serving's REST API: https://www.tensorflow.org/tfx/serving/api_rest
"""

from __future__ import annotations

import json
from base64 import b64decode
from typing import TYPE_CHECKING, Any

from ...utils.util import PredictionException
from .base import InstancesEnvelope

if TYPE_CHECKING:
    from collections.abc import Mapping


class JSONEnvelope(InstancesEnvelope):
    """Answers with JSON as text."""

    def opened(self, row: Mapping[str, Any]) -> tuple[list[Any], Any]:
        """Return a request's instances, bytes where they say base64."""
        instances, repeated = super().opened(row)
        return [_decoded(instance) for instance in instances], repeated

    def response(self, index: int, results: Any, repeated: Any) -> str:
        """Return the predictions of one request."""
        return json.dumps(super().response(index, results, repeated))


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
