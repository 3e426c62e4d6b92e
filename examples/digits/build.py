"""Trains both networks (seconds, on a CPU) and packs the workflow; nobody ever sees half an archive."""

from __future__ import annotations

import argparse
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from cnn import DigitsCNN
from dataset import Images, load_split
from mlp import DigitsMLP
from picture import normalise
from torch import nn

from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

if TYPE_CHECKING:
    from collections.abc import Callable

HERE = Path(__file__).resolve().parent
NETWORKS: dict[str, Callable[[], nn.Module]] = {"cnn": DigitsCNN, "mlp": DigitsMLP}
EPOCHS = 40
BATCH = 64
LEARNING_RATE = 3e-3
SEED = 0

Samples = tuple[torch.Tensor, torch.Tensor]  # [N, 1, 8, 8] float32 in 0..1 and [N] int64


def samples(images: Images) -> Samples:
    """Return `images` as the networks meet them when they serve: through `prepare`."""
    pixels = np.stack([normalise(each.astype(np.float32)) for each in images.pixels])
    return torch.from_numpy(pixels).unsqueeze(1).float() / 16, torch.from_numpy(images.digits)


def train(network: nn.Module, data: Samples, epochs: int) -> None:
    """Fit `network` to `data` with Adam, the learning rate falling to zero along a cosine."""
    images, digits = data
    optimizer = torch.optim.Adam(network.parameters(), lr=LEARNING_RATE)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs)
    for _ in range(epochs):
        for batch in torch.randperm(len(images)).split(BATCH):
            optimizer.zero_grad()
            nn.functional.cross_entropy(network(images[batch]), digits[batch]).backward()
            optimizer.step()
        schedule.step()


@torch.inference_mode()
def accuracy(network: nn.Module, data: Samples) -> float:
    """Return the share of `data` that `network` gets right."""
    images, digits = data
    return (network.eval()(images).argmax(dim=1) == digits).float().mean().item()


def train_and_pack(name: str, training: Samples, held_out: Samples, epochs: int, into: Path) -> Path:
    """Train the network `name` and return its model archive, made in `into`."""
    torch.manual_seed(SEED)
    started = time.perf_counter()
    network = NETWORKS[name]()
    train(network, training, epochs)
    share, seconds = accuracy(network, held_out), time.perf_counter() - started
    print(
        f"{name}: {share:.1%} of {len(held_out[0])} held-out digits right, trained in {seconds:.1f} s",
        flush=True,
    )
    weights = into / f"{name}.pt"
    torch.save(network.state_dict(), weights)
    return pack_model(
        ModelArchiveOptions(
            model_name=f"digits_{name}",
            version="1.0",
            model_file=HERE / f"{name}.py",
            serialized_file=weights,
            handler=str(HERE / "digit_handler.py"),
            export_path=into,
        )
    )


def pack_digits(into: Path) -> Path:
    """Return the workflow archive, made in `into`."""
    return pack_workflow(
        WorkflowArchiveOptions(
            workflow_name="digits",
            spec_file=HERE / "digits.yaml",
            handler=HERE / "digits_workflow.py",
            extra_files=(str(HERE / "picture.py"),),
            export_path=into,
        )
    )


def main() -> None:
    """Build digits.war, digits_cnn.mar and digits_mlp.mar."""
    parser = argparse.ArgumentParser(description=main.__doc__)
    parser.add_argument("--out", type=Path, default=HERE.parents[1] / "workflow_store")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    options = parser.parse_args()
    options.out.mkdir(parents=True, exist_ok=True)
    training, held_out = map(samples, load_split())
    with tempfile.TemporaryDirectory(dir=options.out, prefix=".digits-") as scratch:
        into = Path(scratch)
        archives = [train_and_pack(name, training, held_out, options.epochs, into) for name in NETWORKS]
        for archive in [*archives, pack_digits(into)]:
            print(archive.replace(options.out / archive.name))


if __name__ == "__main__":
    main()
