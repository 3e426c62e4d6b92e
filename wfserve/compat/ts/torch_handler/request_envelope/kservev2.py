"""KServe's V2 protocol, the Open Inference Protocol: named, shaped, typed inputs and outputs.

https://kserve.github.io/website/latest/modelserving/data_plane/v2_protocol/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.util import PredictionException
from .base import BaseEnvelope, message, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

_DATATYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class KServev2Envelope(BaseEnvelope):
    """A row is an input, `{"name", "shape", "datatype", "data"}`, its data nested as its shape says.

    A request gets an output for each of its inputs, of the same name.
    """

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._requests: list[dict[str, Any]] = []

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        """Return the inputs of all requests."""
        self._requests = [message(row, "inputs") for row in data]
        return [_shaped(each) for request in self._requests for each in request["inputs"]]

    def format_output(self, data: Sequence[Any]) -> list[dict[str, Any]]:
        """Return an object for each request: its id, the model's name and version, the outputs."""
        parts = split(data, [len(request["inputs"]) for request in self._requests])
        return [self._response(index, part) for index, part in enumerate(parts)]

    def _response(self, index: int, results: Sequence[Any]) -> dict[str, Any]:
        request = self._requests[index]
        model = (self.context.manifest or {}).get("model", {})
        given = str(request.get("id") or "").strip()
        return {
            "id": request["id"] if given else self.context.get_request_id(index),
            "model_name": model.get("modelName"),
            "model_version": model.get("modelVersion"),
            "outputs": [
                _output(each["name"], result)
                for each, result in zip(request["inputs"], results, strict=False)
            ],
        }


def _shaped(given: Any) -> dict[str, Any]:
    """Return an input with its data as nested lists; of BYTES, its only element."""
    try:
        name, datatype, data = given["name"], given["datatype"], given["data"]
        if datatype == "BYTES":
            return {**given, "data": data[0]}
        return {**given, "data": np.array(data).reshape(given["shape"]).tolist()}
    except (KeyError, IndexError, TypeError, ValueError) as error:
        name = given.get("name", "") if isinstance(given, dict) else ""
        raise PredictionException(f"input {name!r} does not follow the protocol: {error!r}", 400) from None


def _output(name: str, result: Any) -> dict[str, Any]:
    """Return a result as an output of one dimension."""
    values = np.array(result).flatten()
    datatype = _DATATYPES.get(str(values.dtype), "BYTES")
    return {"name": name, "datatype": datatype, "data": values.tolist(), "shape": [values.size]}
