import numpy as np
import torch
from ts.torch_handler.base_handler import BaseHandler


class MlpHandler(BaseHandler):
    """Rows of 784 float32, as bytes or as tensors; logits out, one tensor a row."""

    def preprocess(self, data):
        rows = []
        for row in data:
            v = row.get("body")
            rows.append(
                v
                if isinstance(v, torch.Tensor)
                else torch.from_numpy(np.frombuffer(v, dtype=np.float32).copy())
            )
        return torch.stack(rows)

    def postprocess(self, out):
        return list(out)
