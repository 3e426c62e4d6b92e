"""Copies that are made of a body of 602,112 bytes between socket and model, as the server counts them.

Real HTTP to `wfserve serve`; the node is native, says what shape its inputs have, takes batches of 8, and its
handler asks for them as one tensor. What arrives in one read with a request's head is not counted.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.load import Target, measure
from bench.serve import Server
from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

HERE = Path(__file__).resolve().parent / "workloads"
SHAPE = (3, 224, 224)
CLIENTS = 16
SECONDS = 3.0


def build(directory: Path) -> torch.Tensor:
    """Pack the workflow and write a body into `directory`; return what is in the body."""
    handler = str(HERE / "tensor_handler.py")
    pack_model(ModelArchiveOptions("mean", handler, "1.0", export_path=directory))
    pack_workflow(WorkflowArchiveOptions("tensor", HERE / "tensor.yaml", export_path=directory))
    image = torch.randn(SHAPE)
    image.numpy().tofile(directory / "body.bin")
    return image


def counted(server: Server) -> dict[str, float]:
    """Return what the server has counted of its one node, by name."""
    labels = '{node="mean",workflow="tensor"} '
    lines = server.call("GET", server.metrics, "/metrics").decode().splitlines()
    series = (line.split(labels) for line in lines if labels in line)
    return {name: float(value) for name, value in series}


def figures() -> dict[str, float]:
    """Return the copies a request, and the mean size of the batches they were in."""
    with TemporaryDirectory(prefix="wfserve-bench-") as name:
        directory = Path(name)
        image = build(directory)
        with Server(directory, directory, "tensor") as server:
            target = Target(server.inference, "/wfpredict/tensor", directory / "body.bin")
            answer = json.loads(server.call("POST", target.port, target.path, target.body.read_bytes()))
            if not math.isclose(answer, image.mean(), rel_tol=1e-3, abs_tol=1e-5):
                raise SystemExit(f"the answer is wrong: {answer}")
            if measure(target, CLIENTS, SECONDS).rate is None:
                raise SystemExit("an answer was an error, or there was none")
            found = counted(server)
    items = found["wfserve_node_batched_items_total"]
    return {
        "copies_per_request": found["wfserve_input_copies_total"] / items,
        "copies_batch_size": items / found["wfserve_node_batches_total"],
    }
