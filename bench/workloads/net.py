"""net-native: two real networks on the branches of a DAG, with equal weights in every run."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from bench.workloads.convnet import ConvNet
from bench.workloads.flatnet import FlatNet
from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

HERE = Path(__file__).resolve().parent
NAME = "net-native"
SEED = 0
SHAPE = (3, 64, 64)  # of the request body, float32
NETWORKS = {"conv": ("convnet.py", ConvNet), "flat": ("flatnet.py", FlatNet)}


def build(directory: Path) -> None:
    """Write the archives, the weights (`conv.pt`, `flat.pt`), the body and its answer into `directory`."""
    torch.manual_seed(SEED)
    image = torch.randn(SHAPE)
    image.numpy().tofile(directory / "net.bin")
    logits = torch.zeros(10)
    for name, (file, network) in NETWORKS.items():
        made = network().eval()
        with torch.inference_mode():
            logits += made(image[None])[0]
        weights = directory / f"{name}.pt"
        torch.save(made.state_dict(), weights)
        handler = str(HERE / "net_handler.py")
        options = ModelArchiveOptions(
            name, handler, "1.0", weights, HERE / file, export_path=directory, force=True
        )
        pack_model(options)
    logits.numpy().tofile(directory / "net.logits")
    functions, spec = HERE / "functions_net.py", HERE / "net-native.yaml"
    pack_workflow(WorkflowArchiveOptions(NAME, spec, functions, export_path=directory, force=True))


def is_right(answer: bytes, directory: Path) -> bool:
    """Tell whether `answer` is what net-native computes from its body."""
    expected = np.fromfile(directory / "net.logits", dtype=np.float32)
    return len(answer) == expected.nbytes and np.allclose(
        np.frombuffer(answer, np.float32), expected, atol=1e-4
    )
