"""Compiles the hot modules with mypyc, and says of which sources: here is the list of them.

    python native/compile.py --out DIRECTORY     one library, a small extension a module, and manifest.json
    python native/compile.py --list              print the sources

`wfserve/compiled.py` loads what this leaves. mypyc sees the types of wfserve and of Trio, whose scopes decide
what can be reached: where a scope may be cancelled, what follows it is run though the block was left early.
Those of other packages would take minutes to read, and serve for nothing here.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import subprocess
import sysconfig
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from setuptools import Extension

ROOT = Path(__file__).resolve().parents[1]
LIBRARY = "wfserve"  # the group of modules that call each other past Python; mypyc adds to the name
HOT = {
    "": "identity",
    "child": (
        "codec context device envelope fault form handler home inputs joined main many media node "
        "recorded results rows tensors"
    ),
    "dag": "progress walk",
    "http": (
        "apis body chunked connection cors exchange gate head predict predictions respond response "
        "server urgency"
    ),
    "measure": "counts",
    "registry": "bodies traffic workflow",
    "scheduling": (
        "alarm arrivals cost desk dispatch dues forecast parts policy queue refusals running "
        "scaling tally timing"
    ),
    "transport": "base frame joining message progress publish reader shm slab",
    "workers": "base borrowing keeping lease lending pool replica turns",
}  # by room
UNSEEN = (
    "PIL cryptography click httptools httpx hypercorn isal numpy orjson quart quart_trio torch werkzeug yaml"
)
SETTINGS = f"""\
[mypy]
[mypy-{",".join(f"{package}.*" for package in UNSEEN.split())}]
ignore_missing_imports = True
follow_imports = skip
"""


def modules() -> dict[str, Path]:
    """Return the sources of the hot modules by name, relative to the root of the repository."""
    sources = [Path("wfserve", room, f"{name}.py") for room, names in HOT.items() for name in names.split()]
    return {".".join(source.with_suffix("").parts): source for source in sources}


def generate(directory: Path) -> list[Extension]:
    """Write all modules as C into `directory`; return how that is to be built."""
    from mypyc.build import mypycify

    settings = directory / "mypy.ini"
    settings.write_text(SETTINGS)
    extensions: list[Extension] = mypycify(
        ["--config-file", str(settings), *map(str, modules().values())],
        target_dir=str(directory),
        group_name=LIBRARY,
        multi_file=True,
        opt_level="2",
        debug_level="0",
    )
    return extensions


def build(extensions: list[Extension], out: Path) -> None:
    """Compile as many files at once as there are processors, and link the extensions into `out`."""
    files = [(extension, source) for extension in extensions for source in extension.sources]
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as processors:
        for _ in processors.map(lambda file: _compile(*file), files):
            pass
    for extension in extensions:
        objects = [str(_object(source)) for source in extension.sources]
        _compiler("-shared", *objects, "-o", str(out / _file_name(extension.name)))


def _compile(extension: Extension, source: str) -> None:
    directories = [sysconfig.get_path("include"), *extension.include_dirs]
    include = [f"-I{directory}" for directory in directories]
    flags = ["-fPIC", "-fwrapv", "-DNDEBUG", *extension.extra_compile_args]
    _compiler(*flags, *include, "-c", source, "-o", str(_object(source)))


def _compiler(*arguments: str) -> None:
    command = os.environ.get("CC") or sysconfig.get_config_var("CC")
    subprocess.run([*command.split(), *arguments], check=True)


def _object(source: str) -> Path:
    return Path(source).with_suffix(".o")


def _file_name(module: str) -> str:
    return module + str(sysconfig.get_config_var("EXT_SUFFIX"))


def manifest() -> dict[str, str]:
    """Return the digests of the sources by module."""
    return {name: hashlib.sha256(source.read_bytes()).hexdigest() for name, source in modules().items()}


def main() -> None:
    """Run the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--out", type=Path, metavar="DIRECTORY")
    parser.add_argument("--list", action="store_true")
    arguments = parser.parse_args()
    if arguments.list:
        print(*modules().values())
    if arguments.out is not None:
        out = arguments.out.resolve()
        os.chdir(ROOT)
        out.mkdir(parents=True, exist_ok=True)
        for left in (*out.glob(_file_name("wfserve*")), *out.glob("manifest.json")):  # by another build
            left.unlink()
        with tempfile.TemporaryDirectory() as directory:
            compiled_from = manifest()  # before: what is edited meanwhile shall not pass for compiled
            build(generate(Path(directory)), out)
        (out / "manifest.json").write_text(json.dumps(compiled_from, indent=1))


if __name__ == "__main__":
    main()
