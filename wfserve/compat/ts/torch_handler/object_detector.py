"""Finds things in an image: a label, a box and a score for each."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..utils.util import map_class_to_label
from .image_transforms import find_transforms
from .vision_handler import VisionHandler

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import torch


class ObjectDetector(VisionHandler):
    """The model maps images [B, 3, H, W] to a map each of `boxes` [n, 4], `labels` [n] and `scores` [n]."""

    image_processing = find_transforms().Compose([find_transforms().ToTensor()])
    threshold = 0.5

    def postprocess(self, data: Sequence[Mapping[str, torch.Tensor]]) -> list[Any]:
        """Return, for each image, what scores `threshold` or more: `{label: box, "score": score}`."""
        return [self._things(image) for image in data]

    def _things(self, image: Mapping[str, torch.Tensor]) -> list[dict[str, Any]]:
        sure = image["scores"] >= self.threshold
        labels, boxes, scores = (image[key][sure].tolist() for key in ("labels", "boxes", "scores"))
        named = map_class_to_label([[box] for box in boxes], self.mapping, [[label] for label in labels])
        return [{**thing, "score": score} for thing, score in zip(named, scores, strict=True)]
