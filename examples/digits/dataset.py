"""The held-out images are the same for everyone, and no network has seen what the sample pictures show."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from sklearn.datasets import load_digits
from sklearn.model_selection import train_test_split


class Images(NamedTuple):
    """Handwritten digits: `pixels` is [N, 8, 8] uint8 with ink from 0 to 16, `digits` is [N] int64."""

    pixels: np.ndarray
    digits: np.ndarray


def load_split() -> tuple[Images, Images]:
    """Return (training, held out): 1,437 and 360 of the images that ship inside scikit-learn."""
    data = load_digits()
    split = train_test_split(
        data.images.astype(np.uint8), data.target, test_size=0.2, random_state=7, stratify=data.target
    )
    train_pixels, held_out_pixels, train_digits, held_out_digits = split
    return Images(train_pixels, train_digits), Images(held_out_pixels, held_out_digits)
