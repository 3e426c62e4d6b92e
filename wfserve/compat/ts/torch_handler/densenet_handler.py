"""Takes tensors as `torch.save` writes them, and returns the model's as they are."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any

import torch

from .base_handler import BaseHandler, row_value

if TYPE_CHECKING:
    from collections.abc import Sequence


class DenseNetHandler(BaseHandler):
    """For pipelines whose nodes hand tensors on: one comes in a row, one [1, …] goes out for it."""

    def preprocess(self, data: Sequence[Any]) -> torch.Tensor:
        """Return the rows' tensors as one [B, …]. Raises `UnpicklingError` for anything but a tensor."""
        return torch.stack([self._tensor(row_value(row)) for row in data])

    def _tensor(self, value: Any) -> torch.Tensor:
        if isinstance(value, torch.Tensor):
            return value
        # A client sent it: nothing but tensors may be unpickled.
        tensor: torch.Tensor = torch.load(io.BytesIO(value), map_location=self.device, weights_only=True)
        return tensor

    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """Return a tensor [1, …] for each row."""
        return [data[index : index + 1] for index in range(len(data))]
