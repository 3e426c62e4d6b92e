"""Packs the four workloads and writes their request bodies; the same bytes every time, but for createdOn.

python bench/workloads/build.py DIRECTORY
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

from wfserve.archive.pack import ModelArchiveOptions, WorkflowArchiveOptions, pack_model, pack_workflow

HERE = Path(__file__).resolve().parent
WORKLOADS = ("seq-bytes", "seq-native", "img-bytes", "img-native")
SHAPES = {"seq": (784,), "img": (3, 224, 224)}  # of a request's float32 values


def weights(into: Path) -> Path:
    """Write the weights of `mlp.py`; any will do."""
    sys.path.insert(0, str(HERE))
    from mlp import MLP

    torch.manual_seed(0)
    file = into / "mlp.pt"
    torch.save(MLP().state_dict(), file)
    return file


def pack(into: Path) -> None:
    """Pack two models and four workflows."""
    with tempfile.TemporaryDirectory() as scratch:
        mlp = ModelArchiveOptions(
            "mlp",
            str(HERE / "mlp_handler.py"),
            "1.0",
            weights(Path(scratch)),
            HERE / "mlp.py",
            export_path=into,
            force=True,
        )
        pack_model(mlp)
    pack_model(
        ModelArchiveOptions("double", str(HERE / "double_handler.py"), "1.0", export_path=into, force=True)
    )
    for name in WORKLOADS:
        functions = HERE / f"functions_{name.partition('-')[2]}.py"
        pack_workflow(
            WorkflowArchiveOptions(name, HERE / f"{name}.yaml", functions, export_path=into, force=True)
        )


def write_bodies(into: Path) -> None:
    """Write one request body for each shape, raw float32."""
    random = np.random.default_rng(0)
    for name, shape in SHAPES.items():
        random.random(shape, dtype=np.float32).tofile(into / f"{name}.bin")


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("directory", type=Path)
    into = parser.parse_args().directory
    into.mkdir(parents=True, exist_ok=True)
    pack(into)
    write_bodies(into)
    print(f"{into}: {', '.join(WORKLOADS)}")


if __name__ == "__main__":
    main()
