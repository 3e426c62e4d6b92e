"""Both networks are served by this handler: bytes in, probabilities out, one batch a call."""

from __future__ import annotations

import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class DigitHandler(BaseHandler):
    """`BaseHandler` loads the network and runs it; this says what its bytes mean."""

    def preprocess(self, data: list[dict[str, bytearray]]) -> torch.Tensor:
        """Return [B, 1, 8, 8] float32 in 0..1. Each request's body is the 64 bytes of `prepare`."""
        pixels = [np.frombuffer(row["body"], dtype=np.uint8).reshape(1, 8, 8) for row in data]
        return torch.from_numpy(np.stack(pixels)).float() / 16

    def postprocess(self, logits: torch.Tensor) -> list[list[float]]:
        """Return a list of ten probabilities for each request; it leaves this node as JSON."""
        return logits.softmax(dim=1).tolist()
