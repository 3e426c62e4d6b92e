"""Draws the sample pictures from held-out images; the same pictures every time."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from dataset import Images, load_split
from PIL import Image

SIDE = 256
PAPER, PEN = 245, 30  # grey values
SAMPLES = {0: 7, 3: 6, 4: 5, 7: 0}  # digit: which of its held-out images, chosen for people to read


def draw(pixels: np.ndarray) -> Image.Image:
    """Return `pixels` ([8, 8], 0..16) as dark ink on light paper, 256 by 256, 8-bit grey."""
    framed = Image.fromarray(np.pad(pixels, 1).astype(np.float32))
    smooth = np.asarray(framed.resize((SIDE, SIDE), Image.Resampling.BICUBIC))
    ink = np.clip((smooth - 6.5) / 4, 0, 1)  # harder edges than 8 by 8 pixels have
    return Image.fromarray(np.rint(PAPER + (PEN - PAPER) * ink).astype(np.uint8))


def nth(images: Images, digit: int, index: int) -> np.ndarray:
    """Return number `index` of the images that show `digit`, [8, 8]."""
    return images.pixels[np.flatnonzero(images.digits == digit)[index]]


def main() -> None:
    """Write digit-N.png for some N beside this file, or where `--out` says."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=Path(__file__).parent)
    out = parser.parse_args().out
    _, held_out = load_split()
    for digit, index in SAMPLES.items():
        draw(nth(held_out, digit, index)).save(out / f"digit-{digit}.png", optimize=True)


if __name__ == "__main__":
    main()
