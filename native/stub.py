"""Write wfserve/_native.pyi from the built module; `--check` only says whether it is up to date."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

STUB = Path(__file__).resolve().parents[1] / "wfserve" / "_native.pyi"


def generate() -> str:
    """Return the module's stub, formatted as everything else is."""
    from nanobind.stubgen import StubGen

    from wfserve import _native

    generator = StubGen(_native)
    generator.put(_native)
    return _ruff("format", _ruff("check", generator.get(), "--fix-only", "--unsafe-fixes", "--quiet"))


def _ruff(command: str, text: str, *options: str) -> str:
    argv = [sys.executable, "-m", "ruff", command, *options, "--stdin-filename", str(STUB), "-"]
    return subprocess.run(argv, input=text, text=True, capture_output=True, check=True).stdout


if __name__ == "__main__":
    stub = generate()
    if "--check" not in sys.argv:
        STUB.write_text(stub)
    elif STUB.read_text() != stub:
        sys.exit(f"{STUB} is out of date: run python {sys.argv[0]}")
