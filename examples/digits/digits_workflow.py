"""The functions of the workflow: each gets rows of requests and returns one result a row.

Each is also called once with `None` while its worker starts: the place to load what it needs.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import numpy as np
from picture import normalise, read
from ts.utils.util import PredictionException

if TYPE_CHECKING:
    from ts.context import Context


def prepare(data: list[dict[str, bytearray]] | None, context: Context) -> list[bytes] | None:
    """Turn each picture into the 64 bytes (8 by 8, 0..16) that the networks know."""
    if data is None:
        return None
    try:  # the picture is the body, or the field `data` of a form
        return [normalise(read(row.get("body") or row.get("data") or b"")).tobytes() for row in data]
    except ValueError as error:
        raise PredictionException(f"The picture cannot be read: {error}.", 400) from error


def vote(data: list[dict[str, bytearray]] | None, context: Context) -> list[dict[str, object]] | None:
    """Average what the networks think: with several parents, a row holds what each returned, by its name."""
    if data is None:
        return None
    return [_verdict({network: json.loads(answer) for network, answer in row.items()}) for row in data]


def _verdict(probabilities: dict[str, list[float]]) -> dict[str, object]:
    mean = np.mean(list(probabilities.values()), axis=0)
    return {
        "digit": int(mean.argmax()),
        "confidence": round(float(mean.max()), 3),
        "votes": {network: int(np.argmax(each)) for network, each in sorted(probabilities.items())},
    }
