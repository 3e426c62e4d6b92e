import torch
from ts.torch_handler.base_handler import BaseHandler


class NetHandler(BaseHandler):
    """Tensors of 3×64×64 float32; logits out, one tensor a row."""

    def preprocess(self, data):
        return torch.stack([row.get("body") for row in data])

    def postprocess(self, out):
        return list(out)
