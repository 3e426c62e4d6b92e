"""A handler derived from the base handler: vectors in, vectors out."""

import torch
from ts.torch_handler.base_handler import BaseHandler


class Vectors(BaseHandler):
    def preprocess(self, data):
        return torch.tensor([row.get("data") or row.get("body") for row in data], dtype=torch.float)

    def postprocess(self, data):
        return [
            {"twice": row, "labels": self.mapping} if getattr(self, "mapping", None) else {"twice": row}
            for row in data.tolist()
        ]
