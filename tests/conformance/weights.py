"""Each entry makes the bytes of tiny weights, untrained but the same every time."""

from __future__ import annotations

import functools
import io
import warnings
from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Callable


def _saved(save: Callable[[io.BytesIO], None]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def _doubling() -> torch.nn.Linear:
    """Two inputs, two outputs, each twice its input."""
    network = torch.nn.Linear(2, 2)
    with torch.no_grad():
        network.weight.copy_(2 * torch.eye(2))
        network.bias.zero_()
    return network.eval()


@functools.cache
def state_dict() -> bytes:
    """The state of `network.Doubling`, see handlers/doubling.py."""
    state = {f"layer.{name}": value for name, value in _doubling().state_dict().items()}
    return _saved(lambda file: torch.save(state, file))


@functools.cache
def scripted() -> bytes:
    """A TorchScript program that doubles."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # archives have it all the same
        program = torch.jit.trace(_doubling(), torch.zeros(1, 2))
        return _saved(lambda file: torch.jit.save(program, file))


WEIGHTS: dict[str, Callable[[], bytes]] = {"state_dict": state_dict, "scripted": scripted}
