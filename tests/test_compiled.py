"""Hot modules are loaded compiled from the sources that are there, and never from others."""

from __future__ import annotations

import ast
import hashlib
import json
import shutil
import subprocess
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import pytest
import trio

import wfserve
from wfserve import compiled

ROOT = Path(__file__).resolve().parents[1]
ARITHMETIC = ast.Constant | ast.BinOp | ast.UnaryOp | ast.operator | ast.unaryop
NAME = "wfserve.dag.walk"
TELL = f"""
import {NAME} as module, wfserve.compiled as compiled
print(module.__file__, getattr(module, "EDITED", ""), compiled.why_not, sep="|")
"""
were_compiled = pytest.mark.skipif(
    compiled.why_not.startswith("nothing was compiled"), reason="wfserve was installed without"
)


@pytest.fixture(autouse=True)
def _no_switch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(compiled.SWITCH, raising=False)


@pytest.fixture
def package(tmp_path: Path) -> Path:
    """Return where a package lies whose only module has been compiled."""
    source = tmp_path / "dag" / "walk.py"
    source.parent.mkdir()
    source.write_text("STEPS = 1\n")
    binaries = tmp_path / "binaries"
    binaries.mkdir()
    digest = hashlib.sha256(source.read_bytes()).hexdigest()
    (binaries / "manifest.json").write_text(json.dumps({NAME: digest}))
    for name in (NAME, compiled.LIBRARY):
        (binaries / (name + EXTENSION_SUFFIXES[0])).touch()
    return tmp_path


def test_what_was_compiled_is_found(package: Path) -> None:
    why_not, files = compiled.find([package])
    assert not why_not
    assert files == {
        name: package / "binaries" / (name + EXTENSION_SUFFIXES[0]) for name in (compiled.LIBRARY, NAME)
    }


def constants(source: Path) -> set[str]:
    """Return the names that a module says are final: a compiler may put their values where they are used."""
    return {
        str(getattr(node.target, "id", ""))
        for node in ast.parse(source.read_text()).body
        if isinstance(node, ast.AnnAssign)
        and "Final" in ast.unparse(node.annotation)
        and all(isinstance(part, ARITHMETIC) for part in ast.walk(node.value or node))
    }


def test_nothing_compiled_has_a_constant_of_a_source_that_may_be_edited() -> None:
    """A module that is interpreted may change, and nobody would notice that the compiled have the old one."""
    listed = subprocess.check_output([sys.executable, "native/compile.py", "--list"], cwd=ROOT, text=True)
    hot = {ROOT / each for each in listed.split()}
    assert hot
    for source in hot:
        for node in ast.walk(ast.parse(source.read_text())):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("wfserve."):
                imported = ROOT / f"{str(node.module).replace('.', '/')}.py"
                names = {alias.name for alias in node.names}
                assert imported in hot or not imported.is_file() or not constants(imported) & names, source


def test_sources_and_binaries_may_lie_apart(package: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    apart = tmp_path_factory.mktemp("site-packages")
    shutil.move(package / "binaries", apart)
    assert compiled.find([package, apart])[0] == ""


def test_one_edited_source_has_all_interpreted(package: Path) -> None:
    (package / "dag" / "walk.py").write_text("STEPS = 2\n")
    assert compiled.find([package]) == (f"{NAME} has been edited since wfserve was installed", {})


def test_one_source_that_is_gone_has_all_interpreted(package: Path) -> None:
    (package / "dag" / "walk.py").unlink()
    assert compiled.find([package]) == (f"{NAME} has been edited since wfserve was installed", {})


def test_what_another_python_compiled_is_left_alone(package: Path) -> None:
    library = package / "binaries" / (compiled.LIBRARY + EXTENSION_SUFFIXES[0])
    library.rename(library.with_name(f"{compiled.LIBRARY}.cpython-27.so"))
    assert compiled.find([package]) == ("it was compiled for another Python", {})


def test_without_binaries_all_is_interpreted(tmp_path: Path) -> None:
    assert compiled.find([tmp_path]) == ("nothing was compiled when wfserve was installed", {})


def test_the_switch_has_all_interpreted(package: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(compiled.SWITCH, "1")
    assert compiled.find([package]) == ("WFSERVE_INTERPRETED is set", {})
    monkeypatch.setenv(compiled.SWITCH, "0")
    assert compiled.find([package])[0] == ""


def said_by(copy: Path, **environment: str) -> list[str]:
    """Return what an interpreter tells of the module of a copy of wfserve: its file, an edit, and why not.

    Without `site`, whose hooks would find the wfserve that is installed.
    """
    packages = Path(trio.__file__).parents[1]
    script = f"import sys; sys.path[:0] = [{str(copy)!r}, {str(packages)!r}]\n{TELL}"
    command = [sys.executable, "-S", "-c", script]
    found = subprocess.run(command, capture_output=True, text=True, check=True, env=environment, cwd=copy)
    return found.stdout.strip().split("|")


@pytest.fixture(scope="module")
def copied(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the parent directory of a copy of this wfserve, sources and binaries."""
    parent = tmp_path_factory.mktemp("copied")
    for directory in reversed(wfserve.__path__):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(directory, parent / "wfserve", ignore=ignored, dirs_exist_ok=True)
    return parent


@were_compiled
def test_what_this_machine_compiled_is_what_runs(copied: Path) -> None:
    assert said_by(copied)[0].endswith(EXTENSION_SUFFIXES[0])
    assert said_by(copied, WFSERVE_INTERPRETED="1")[0].endswith("walk.py")


@were_compiled
def test_an_edit_is_in_force_at_once(copied: Path) -> None:
    source = copied / "wfserve" / "dag" / "walk.py"
    before = source.read_text()
    source.write_text(before + "\nEDITED = 'edited'\n")
    try:
        file, edited, why_not = said_by(copied)
    finally:
        source.write_text(before)
    assert (Path(file).name, edited) == ("walk.py", "edited")
    assert why_not == f"{NAME} has been edited since wfserve was installed"
