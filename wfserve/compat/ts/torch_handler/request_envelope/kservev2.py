"""KServe's V2 protocol, the Open Inference Protocol: named, shaped, typed inputs and outputs.

https://kserve.github.io/website/latest/modelserving/data_plane/v2_protocol/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.util import PredictionException
from .base import JoiningEnvelope, message

if TYPE_CHECKING:
    from collections.abc import Mapping

_DATATYPES = {
    "bool": "BOOL",
    "float16": "FP16",
    "float32": "FP32",
    "float64": "FP64",
    **{f"{sign}int{bits}": f"{sign.upper()}INT{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)},
}


class KServev2Envelope(JoiningEnvelope):
    """A row is an input, `{"name", "shape", "datatype", "data"}`, its data nested as its shape says.

    A request gets an output for each of its inputs, of the same name.
    """

    def opened(self, row: Mapping[str, Any]) -> tuple[list[Any], Any]:
        """Return a request's inputs; its id and their names are repeated."""
        request = message(row, "inputs")
        rows = [_shaped(each) for each in request["inputs"]]
        return rows, (str(request.get("id") or "").strip(), [each["name"] for each in rows])

    def response(self, index: int, results: Any, repeated: Any) -> dict[str, Any]:
        """Return a request's id, the model's name and version, the outputs."""
        given, names = repeated
        model = (self.context.manifest or {}).get("model", {})
        return {
            "id": given or self.context.get_request_id(index),
            "model_name": model.get("modelName"),
            "model_version": model.get("modelVersion"),
            "outputs": [_output(name, result) for name, result in zip(names, results, strict=False)],
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
