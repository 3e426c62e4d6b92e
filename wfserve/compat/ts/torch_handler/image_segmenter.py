"""Says of each pixel of an image what it belongs to, and how probably."""

from __future__ import annotations

from typing import Any

import torch

from .image_transforms import imagenet
from .vision_handler import VisionHandler


class ImageSegmenter(VisionHandler):
    """The model maps images [B, 3, 224, 224] to `{"out": scores [B, classes, H, W]}`."""

    image_processing = imagenet()

    def postprocess(self, data: Any) -> list[Any]:
        """Return, for each image, [H][W] pairs of the most probable class and its probability."""
        best = torch.softmax(data["out"], dim=1).max(dim=1)
        pairs: list[Any] = torch.stack([best.indices.to(best.values.dtype), best.values], dim=3).tolist()
        return pairs
