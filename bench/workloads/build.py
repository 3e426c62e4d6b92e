"""Every run of the benchmarks measures equal archives, equal weights and equal request bodies.

    python -m bench.workloads.build --out DIR

packs seq-bytes, seq-native, img-bytes and img-native, and writes their bodies, seq.bin and img.bin.
"""

from __future__ import annotations

import argparse
import io
import json
import math
from pathlib import Path

import numpy as np
import torch

from bench.workloads.mlp import MLP
from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

HERE = Path(__file__).resolve().parent
NAMES = ("seq-bytes", "seq-native", "img-bytes", "img-native")
SEED = 0
SHAPES = {"seq": (784,), "img": (3, 224, 224)}  # of the request bodies, float32


def body(name: str, directory: Path) -> Path:
    """Return the file with the request body of workload `name`."""
    return directory / f"{name.partition('-')[0]}.bin"


def build(directory: Path) -> None:
    """Write the archives and the bodies into `directory`, which exists."""
    torch.manual_seed(SEED)
    for kind, shape in SHAPES.items():
        torch.randn(shape).numpy().tofile(directory / f"{kind}.bin")
    _pack_mlp(directory)
    handler = str(HERE / "double_handler.py")
    pack_model(ModelArchiveOptions("double", handler, "1.0", export_path=directory, force=True))
    for name in NAMES:
        functions = HERE / f"functions_{name.partition('-')[2]}.py"
        spec = HERE / f"{name}.yaml"
        pack_workflow(WorkflowArchiveOptions(name, spec, functions, export_path=directory, force=True))


def _pack_mlp(directory: Path) -> None:
    network = MLP()
    with torch.inference_mode():
        network(torch.from_numpy(_floats(directory / "seq.bin"))).numpy().tofile(directory / "seq.logits")
    weights = directory / "mlp.pt"
    torch.save(network.state_dict(), weights)
    handler = str(HERE / "mlp_handler.py")
    options = ModelArchiveOptions(
        "mlp", handler, "1.0", weights, HERE / "mlp.py", export_path=directory, force=True
    )
    pack_model(options)


def is_right(name: str, answer: bytes, directory: Path) -> bool:
    """Tell whether `answer` is what workload `name` computes from its body."""
    if name.startswith("img"):
        expected = 2 * _floats(body(name, directory))[:10].sum()
        return math.isclose(json.loads(answer)["sum"], expected, rel_tol=1e-4)
    if name == "seq-bytes":
        logits = torch.load(io.BytesIO(answer), weights_only=True).numpy()
    else:
        logits = np.frombuffer(answer, dtype=np.float32)
    return np.allclose(logits, _floats(directory / "seq.logits"), atol=1e-4)


def _floats(path: Path) -> np.ndarray:
    return np.fromfile(path, dtype=np.float32)


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")
    directory: Path = parser.parse_args().out
    directory.mkdir(parents=True, exist_ok=True)
    build(directory)
    print("\n".join(sorted(str(path) for path in directory.iterdir())))


if __name__ == "__main__":
    main()
