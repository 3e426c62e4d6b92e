import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class DoubleHandler(BaseHandler):
    """Images of 3×224×224 float32, as bytes or as tensors; twice the image out."""

    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        rows = []
        for row in data:
            v = row.get("body")
            rows.append(
                v
                if isinstance(v, torch.Tensor)
                else torch.from_numpy(np.frombuffer(v, dtype=np.float32).copy())
            )
        return torch.stack(rows).reshape(-1, 3, 224, 224)

    def inference(self, x):
        return x * 2.0

    def postprocess(self, out):
        return list(out)
