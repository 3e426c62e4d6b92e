"""A vision handler makes one tensor of a batch of encoded images, each prepared by `image_processing`."""

from __future__ import annotations

import base64
import functools
import io
from typing import TYPE_CHECKING, Any

import torch
from PIL import Image

from ..handler_utils.timer import timed
from ..utils.util import captum_attr
from .base_handler import BaseHandler, row_value

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ..context import Context


class VisionHandler(BaseHandler):
    """Base of the handlers of images; subclasses set `image_processing`, a function of a Pillow image."""

    image_processing: Any

    def initialize(self, context: Context) -> None:
        """Load the model; lift Pillow's limit on the size of images if the server says so."""
        super().initialize(context)
        if not context.system_properties.get("limit_max_image_pixels"):
            Image.MAX_IMAGE_PIXELS = None

    @functools.cached_property
    def ig(self) -> Any:
        """Integrated gradients of the model. Raises `PredictionException` without captum."""
        return captum_attr().IntegratedGradients(self.model)

    @timed
    def preprocess(self, data: Sequence[Any]) -> torch.Tensor:
        """Return the images as one tensor [B, C, H, W].

        A row holds an encoded image (bytes, or base64 as text) or the numbers of a tensor. Raises Pillow's
        errors for bytes that are no image, `RuntimeError` for images that end up with different shapes.
        """
        return torch.stack([self._image(row_value(row)) for row in data]).to(self.device)

    def _image(self, value: Any) -> Any:
        if isinstance(value, str):
            value = base64.b64decode(value)
        if isinstance(value, (bytes, bytearray, memoryview)):
            return self.image_processing(Image.open(io.BytesIO(value)))
        return torch.as_tensor(value, dtype=torch.float32)

    def get_insights(self, tensor_data: torch.Tensor, _: Any, target: int = 0) -> Any:
        """Return, for each image, how much each value weighed for class `target`: [B][C][H][W]."""
        return self.ig.attribute(tensor_data, target=target, n_steps=15).tolist()
