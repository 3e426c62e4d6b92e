"""Turns any picture of one digit into what the networks are trained on; training and serving share it."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

SIZE = 8  # the networks see 8 by 8 pixels
INK = 16  # ... with values from 0 (paper) to 16 (ink)
FAINT = 0.3  # what is fainter than this share of the darkest ink is not part of the digit
MAX_SIDE = 4096  # pixels; checked before a picture is decoded


def read(picture: bytes | bytearray) -> np.ndarray:
    """Return the grey values of a PNG or JPEG file, [H, W] float32. Raises `ValueError`."""
    try:
        with Image.open(io.BytesIO(picture), formats=("PNG", "JPEG")) as image:
            if max(image.size) <= MAX_SIDE:
                return _grey(image)
    except (OSError, SyntaxError, TypeError, ValueError, Image.DecompressionBombError) as error:
        raise ValueError("it is no PNG or JPEG file") from error
    raise ValueError(f"it is larger than {MAX_SIDE} by {MAX_SIDE} pixels")


def _grey(image: Image.Image) -> np.ndarray:
    paper = Image.new("RGBA", image.size, "white")  # what is transparent is paper
    return np.asarray(Image.alpha_composite(paper, image.convert("RGBA")).convert("L"), dtype=np.float32)


def normalise(grey: np.ndarray) -> np.ndarray:
    """Return [8, 8] uint8, 0..16: the digit cut out of `grey` ([H, W]), centred, filling the square."""
    edge = np.concatenate([grey[0], grey[-1], grey[:, 0], grey[:, -1]])
    ink = np.abs(grey - np.median(edge))  # the border is paper, be it light or dark
    if not ink.any():
        return np.zeros((SIZE, SIZE), dtype=np.uint8)
    square = _centred(_cut_out(ink / ink.max()))
    small = Image.fromarray(square).resize((SIZE, SIZE), Image.Resampling.BOX)
    return np.rint(np.asarray(small) * INK).astype(np.uint8)


def _cut_out(ink: np.ndarray) -> np.ndarray:
    dark = ink > FAINT
    rows, columns = np.flatnonzero(dark.any(axis=1)), np.flatnonzero(dark.any(axis=0))
    return ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]


def _centred(digit: np.ndarray) -> np.ndarray:
    height, width = digit.shape
    side = max(height, width)
    top, left = (side - height) // 2, (side - width) // 2
    square = np.zeros((side, side), dtype=np.float32)
    square[top : top + height, left : left + width] = digit
    return square
