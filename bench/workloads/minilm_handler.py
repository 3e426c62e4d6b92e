import torch
from ts.torch_handler.base_handler import BaseHandler


class MiniLMHandler(BaseHandler):
    """Raw bodies of 64 token ids, int64; embeddings out, 384 float32 as bytes."""

    def preprocess(self, data):
        return torch.stack([torch.frombuffer(row["body"], dtype=torch.int64) for row in data])

    def postprocess(self, data):
        return [row.tobytes() for row in data.numpy()]
