"""Draws the sample pictures from held-out images; the same pictures every time."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from dataset import Images, load_split
from PIL import Image

SIDE = 256
MARGIN = 32
PAPER, PEN = 245, 30  # grey values
DIGITS = (0, 3, 4, 7)


def draw(pixels: np.ndarray) -> Image.Image:
    """Return `pixels` ([8, 8], 0..16) as dark ink on light paper, 256 by 256, 8-bit grey."""
    side = SIDE - 2 * MARGIN
    smooth = Image.fromarray(pixels.astype(np.float32)).resize((side, side), Image.Resampling.BICUBIC)
    ink = np.clip((np.asarray(smooth) - 4) / 6, 0, 1)  # harder edges than 8 by 8 pixels have
    picture = Image.new("L", (SIDE, SIDE), PAPER)
    picture.paste(Image.fromarray(np.rint(PAPER + (PEN - PAPER) * ink).astype(np.uint8)), (MARGIN, MARGIN))
    return picture


def first(images: Images, digit: int) -> np.ndarray:
    """Return the first of `images` that shows `digit`, [8, 8]."""
    return images.pixels[np.flatnonzero(images.digits == digit)[0]]


def main() -> None:
    """Write digit-N.png for some N beside this file, or where `--out` says."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    _, held_out = load_split()
    for digit in DIGITS:
        draw(first(held_out, digit)).save(out / f"digit-{digit}.png", optimize=True)


if __name__ == "__main__":
    main()
