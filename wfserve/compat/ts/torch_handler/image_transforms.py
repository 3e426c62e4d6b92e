"""torchvision's image transforms, or, where it cannot be imported, the same on Pillow and torch.

The few that the default handlers name, for one Pillow image, with torchvision's results.
"""

from __future__ import annotations

import importlib
import logging
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from PIL import Image

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

logger = logging.getLogger(__name__)

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


class Compose:
    """One transform after the other."""

    def __init__(self, transforms: Sequence[Callable[[Any], Any]]) -> None:
        self.transforms = list(transforms)

    def __call__(self, img: Any) -> Any:
        """Return what the last transform makes of it."""
        for transform in self.transforms:
            img = transform(img)
        return img


class Resize:
    """Scales an image, bilinearly, so that its shorter side has `size` pixels."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return the scaled image; the longer side is rounded down."""
        shorter = min(img.size)
        width, height = (self.size * side // shorter for side in img.size)
        return img.resize((width, height), Image.Resampling.BILINEAR)


class CenterCrop:
    """Cuts a square of `size` pixels out of the middle; a smaller image is padded with black."""

    def __init__(self, size: int) -> None:
        self.size = size

    def __call__(self, img: Image.Image) -> Image.Image:
        """Return the square."""
        left, top = map(self._start, img.size)
        return img.crop((left, top, left + self.size, top + self.size))

    def _start(self, side: int) -> int:
        if side < self.size:
            return -((self.size - side) // 2)
        return round((side - self.size) / 2)


class ToTensor:
    """Makes a tensor [C, H, W] of an image; 8-bit channels become floats of 0 to 1, others stay."""

    def __call__(self, img: Image.Image) -> torch.Tensor:
        """Return the tensor."""
        if img.mode == "1":
            img = img.convert("L")
        array = np.array(img)
        # As torchvision: 16-bit greys wrap, and models were trained on what came of it.
        pixels = torch.from_numpy(array.view(np.int16) if array.dtype == np.uint16 else array)
        pixels = pixels.unsqueeze(0) if pixels.ndim == 2 else pixels.permute(2, 0, 1).contiguous()
        return pixels.to(torch.get_default_dtype()).div(255) if pixels.dtype == torch.uint8 else pixels


class Normalize:
    """Subtracts a mean from each channel and divides it by a standard deviation."""

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        self.mean = mean
        self.std = std

    def __call__(self, tensor: torch.Tensor) -> torch.Tensor:
        """Return the normalized tensor [C, H, W]. Raises `RuntimeError` for another number of channels."""
        mean, std = (torch.tensor(each, dtype=tensor.dtype)[:, None, None] for each in (self.mean, self.std))
        return tensor.clone().sub_(mean).div_(std)


def find_transforms() -> Any:
    """Return the module `torchvision.transforms`, or this one if torchvision is missing or broken."""
    try:
        return importlib.import_module("torchvision.transforms")
    except ImportError:
        logger.info("torchvision is not installed; images are prepared with Pillow and torch")
    except Exception as error:  # compiled parts made for another torch fail in several ways
        logger.warning(
            "torchvision does not work here (%s); images are prepared with Pillow and torch", error
        )
    return importlib.import_module(__name__)


def imagenet() -> Any:
    """Return the preparation that models trained on ImageNet expect: image → [3, 224, 224]."""
    found = find_transforms()
    return found.Compose(
        [
            found.Resize(256),
            found.CenterCrop(224),
            found.ToTensor(),
            found.Normalize(mean=IMAGENET_MEAN, std=IMAGENET_STD),
        ]
    )
