"""Names what an image shows: the `topk` most probable labels and their probabilities."""

from __future__ import annotations

from typing import Any

import torch

from ..handler_utils.timer import timed
from ..utils.util import map_class_to_label
from .image_transforms import imagenet
from .vision_handler import VisionHandler


class ImageClassifier(VisionHandler):
    """The model maps images [B, 3, 224, 224] to scores [B, classes]."""

    topk = 5
    image_processing = imagenet()

    def set_max_result_classes(self, topk: int) -> None:
        """Set how many labels a result has."""
        self.topk = topk

    def get_max_result_classes(self) -> int:
        """Return how many labels a result has."""
        return self.topk

    @timed
    def postprocess(self, data: torch.Tensor) -> list[Any]:
        """Return, for each image, its most probable labels; all of them if there are fewer than `topk`."""
        probabilities = torch.softmax(data, dim=1)
        top = torch.topk(probabilities, min(self.topk, probabilities.shape[1]), dim=1)
        return map_class_to_label(top.values.tolist(), self.mapping, top.indices.tolist())
