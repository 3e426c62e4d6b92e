"""What every peer computes for a workload: `branches` on batches, and the answer from what they return.

It runs in a peer's environment: numpy, torch and the standard library, nothing of wfserve.
"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    Array = np.ndarray[Any, Any]
    Branch = Callable[[Array], Array]


class Work:
    """One workload. Arrays are float32; a batch has one more dimension, the first."""

    shape: tuple[int, ...]  # of one request's array
    branches: tuple[Branch, ...]  # each takes a batch of arrays, and returns one of results

    def array(self, body: bytes) -> Array:
        """Return the array of one request, which looks at its body."""
        return np.frombuffer(body, np.float32).reshape(self.shape)

    def batch(self, bodies: Sequence[bytes]) -> Array:
        """Return the batch of several requests' arrays, with one copy, of one without."""
        whole = bodies[0] if len(bodies) == 1 else bytearray().join(bodies)  # torch wants it writable
        return np.frombuffer(whole, np.float32).reshape(len(bodies), *self.shape)

    def results(self, batch: Array) -> list[tuple[Array, ...]]:
        """Return for each of the batch what the branches return."""
        return list(zip(*(branch(batch) for branch in self.branches), strict=True))

    def answer(self, *results: Array) -> bytes:
        """Return the body of the response, of one request's results."""
        return results[0].tobytes()

    def answers(self, bodies: Sequence[bytes]) -> list[bytes]:
        """Do everything at once."""
        return [self.answer(*each) for each in self.results(self.batch(bodies))]


class Seq(Work):
    """A small MLP."""

    shape = (784,)

    def __init__(self, store: Path) -> None:
        from mlp import MLP

        self.branches = (network(MLP(), store / "mlp.pt"),)


class Img(Work):
    """An image times two, and the sum of ten of its values."""

    shape = (3, 224, 224)

    def __init__(self, store: Path) -> None:
        self.branches = (double,)

    def answer(self, *results: Array) -> bytes:
        """Return the sum as JSON."""
        return json.dumps({"sum": float(results[0].reshape(-1)[:10].sum())}).encode()


class Net(Work):
    """Two networks on one image, and the sum of their logits."""

    shape = (3, 64, 64)

    def __init__(self, store: Path) -> None:
        from convnet import ConvNet
        from flatnet import FlatNet

        self.branches = (network(ConvNet(), store / "conv.pt"), network(FlatNet(), store / "flat.pt"))

    def answer(self, *results: Array) -> bytes:
        """Return the sum as raw bytes."""
        return (results[0] + results[1]).tobytes()


def network(model: torch.nn.Module, weights: Path) -> Branch:
    """Return `model` with `weights` as a branch."""
    model.load_state_dict(torch.load(weights, weights_only=True))
    model.eval()

    def run(batch: Array) -> Array:
        with torch.inference_mode():
            result: Array = model(torch.from_numpy(batch)).numpy()
        return result

    return run


def double(batch: Array) -> Array:
    """Return twice the batch."""
    result: Array = (torch.from_numpy(batch) * 2.0).numpy()
    return result


def stack(arrays: Sequence[Array]) -> Array:
    """Return a batch of arrays, of one without a copy."""
    return arrays[0][None] if len(arrays) == 1 else np.stack(arrays)


def load(workload: str, store: Path) -> Work:
    """Return the work of `workload`, on one thread as wfserve's workers have."""
    torch.set_num_threads(1)
    work = {"seq": Seq, "img": Img, "net": Net}[workload.partition("-")[0]](store)
    work.answers([bytearray(4 * math.prod(work.shape))])
    return work
