"""Imports point down the list of rooms, without cycles, and heavy modules are loaded only where they work."""

from __future__ import annotations

import ast
import enum
import graphlib
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

ROOT = Path(__file__).resolve().parents[1]
ROOMS = (
    *("cli", "commands", "client", "doctor", "launch", "notify", "front", "asgi", "http", "registry"),
    *("state", "dag", "scheduling", "workers", "child", "transport", "archive", "compat", "_native"),
)  # each may import what stands after it
FIRST = "compiled"  # it says how the others are loaded, so the package itself imports it
FOR_EVERYONE = (FIRST, "config", "dtypes", "errors", "identity", "measure")  # these import nothing but errors
HEAVY = ("torch", "httpx", "sklearn")
MAY_BE_HEAVY = ("wfserve.child", "wfserve.compat", "wfserve.workers.process")
ARCHIVED = "wfserve.compat.ts"  # only archived handlers import it, as `ts`, in workers


class When(enum.Enum):
    """What makes an import happen."""

    LOADING = "the module is loaded"
    CALLING = "a function is called"
    TYPING = "types are checked"


class Import(NamedTuple):
    """`importer`, at `line`, needs `target`; both are dotted names of modules."""

    importer: str
    line: int
    target: str
    when: When

    def __str__(self) -> str:
        return f"{self.importer}:{self.line} imports {self.target}"


class Imports(ast.NodeVisitor):
    """Collects the imports of one module, wherever in it they are."""

    def __init__(self, name: str, modules: Iterable[str]) -> None:
        self.name = name
        self.modules = frozenset(modules)
        self.when = When.LOADING
        self.found: list[Import] = []

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(self.name, node.lineno, alias.name, self.when) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        source = self._absolute(node)
        for alias in node.names:
            module = f"{source}.{alias.name}"
            target = module if module in self.modules else source
            self.found.append(Import(self.name, node.lineno, target, self.when))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        is_package = any(module.startswith(f"{self.name}.") for module in self.modules)
        parts = self.name.split(".")
        parents = parts[: len(parts) - node.level + is_package]
        return ".".join([*parents, node.module] if node.module else parents)

    def visit_FunctionDef(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> None:
        self._within(When.CALLING, node.body)

    visit_AsyncFunctionDef = visit_FunctionDef  # noqa: N815 - the visitor's naming

    def visit_If(self, node: ast.If) -> None:
        typing = ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        self._within(When.TYPING if typing else self.when, node.body)
        self._within(self.when, node.orelse)

    def _within(self, when: When, body: list[ast.stmt]) -> None:
        outside, self.when = self.when, when
        for statement in body:
            self.visit(statement)
        self.when = outside


def imports_of(sources: Mapping[str, str], known: Iterable[str] = ()) -> list[Import]:
    """Return every import of `sources` (module name → code); `known` names modules without code."""
    found = []
    for name, source in sources.items():
        visitor = Imports(name, [*sources, *known])
        visitor.visit(ast.parse(source))
        found += visitor.found
    return found


def room(module: str) -> str:
    """Return the part after `wfserve`, empty for the package itself."""
    return module.partition(".")[2].partition(".")[0]


def is_ours(module: str) -> bool:
    return module.partition(".")[0] == "wfserve"


def points_up(each: Import) -> bool:
    """Tell whether an import of ours breaks the order of the rooms, or a room is not on the list."""
    importer, target = room(each.importer), room(each.target)
    if target in ("", "errors") or (importer, target) == ("", FIRST):
        return False
    if importer in ("", *FOR_EVERYONE):
        return importer != target
    if target in FOR_EVERYONE:
        return False
    return importer not in ROOMS or target not in ROOMS or ROOMS.index(importer) > ROOMS.index(target)


def names_archived(each: Import) -> bool:
    """Tell whether an import ties the server to what only archived handlers may import."""
    if f"{each.importer}.".startswith(f"{ARCHIVED}."):
        return False
    return each.target.partition(".")[0] == "ts" or f"{each.target}.".startswith(f"{ARCHIVED}.")


def is_too_early(each: Import) -> bool:
    """Tell whether loading a light module loads a heavy one."""
    heavy = each.when is When.LOADING and each.target.partition(".")[0] in HEAVY
    return heavy and not any(f"{each.importer}.".startswith(f"{place}.") for place in MAY_BE_HEAVY)


def violations(imports: Iterable[Import]) -> Iterator[str]:
    """Yield what breaks the rules, a line each."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        if is_ours(each.target) and points_up(each):
            yield f"{each}, which is not below it"
        if names_archived(each):
            yield f"{each}, which is for archived handlers"
        if is_too_early(each):
            yield f"{each} whenever it is loaded"
        if is_ours(each.target) and each.when is not When.TYPING:
            graph.setdefault(each.importer, set()).add(each.target)
    try:
        graphlib.TopologicalSorter(graph).prepare()
    except graphlib.CycleError as error:
        yield f"a cycle: {' ← '.join(error.args[1])}"


def module_name(path: Path) -> str:
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def test_wfserve_keeps_the_rules():
    sources = {module_name(path): path.read_text() for path in (ROOT / "wfserve").rglob("*.py")}
    assert {"wfserve.errors", "wfserve.dag.graph", "wfserve.transport.base"} <= sources.keys()
    assert not list(violations(imports_of(sources, known=["wfserve._native"])))


def test_the_command_line_starts_without_heavy_modules():
    code = f"import sys, wfserve.cli; print([name for name in {HEAVY} if name in sys.modules])"
    assert subprocess.check_output([sys.executable, "-c", code], text=True, cwd=ROOT).strip() == "[]"


@pytest.mark.parametrize(
    ("importer", "code", "complaint"),
    [
        ("wfserve.dag.graph", "import wfserve.registry", "not below"),
        ("wfserve.dag.graph", "from wfserve import registry", "not below"),
        ("wfserve.dag.graph", "from ..registry import catalogue", "not below"),
        ("wfserve.dag", "from ..registry import catalogue", "not below"),
        ("wfserve.dag.graph", "def f():\n    from wfserve.http.apis import x", "not below"),
        ("wfserve.dag.graph", "async def f():\n    import wfserve.cli", "not below"),
        ("wfserve.dag.graph", "if TYPE_CHECKING:\n    import wfserve.registry", "not below"),
        ("wfserve.dag.graph", "class A:\n    import wfserve.registry", "not below"),
        ("wfserve.config", "import wfserve.archive.spec", "not below"),
        ("wfserve.errors", "import wfserve.config", "not below"),
        ("wfserve", "import wfserve.config", "not below"),
        ("wfserve.attic.old", "import wfserve.transport.base", "not below"),
        ("wfserve.dag.graph", "import wfserve.attic.old", "not below"),
        ("wfserve.child.handler", "import wfserve.compat.ts.context", "archived"),
        ("wfserve.child.handler", "from wfserve.compat import ts", "archived"),
        ("wfserve.child.handler", "def f():\n    from ts.context import Context", "archived"),
        ("wfserve.archive.spec", "import torch", "whenever"),
        ("wfserve.archive.spec", "try:\n    import httpx\nexcept ImportError:\n    pass", "whenever"),
        ("wfserve.workers.pool", "from torch import multiprocessing", "whenever"),
        ("wfserve.childish", "import torch", "whenever"),
        ("wfserve.dag.graph", "import wfserve.dag.walk", "cycle"),
        ("wfserve.dag.graph", "def f():\n    import wfserve.dag.walk", "cycle"),
    ],
)
def test_what_breaks_a_rule_is_found(importer, code, complaint):
    sources = MADE_UP | {importer: code}
    found = list(violations(imports_of(sources)))
    assert [line for line in found if complaint in line] == found
    assert len(found) == 1


@pytest.mark.parametrize(
    ("importer", "code"),
    [
        ("wfserve.dag.graph", "import trio\nfrom wfserve.archive.spec import x\nfrom wfserve import errors"),
        ("wfserve.dag.graph", "from wfserve import __version__\nfrom wfserve.config import Config"),
        ("wfserve.dag.graph", "if typing.TYPE_CHECKING:\n    import wfserve.dag.walk\n    import torch"),
        ("wfserve.config", "from wfserve.errors import ConfigError"),
        ("wfserve.archive.spec", "def f():\n    import httpx"),
        ("wfserve.workers.process", "import torch.multiprocessing"),
        ("wfserve.child.handler", "import torch\nimport tsfresh"),
        ("wfserve.compat.ts.context", "import torch\nfrom ts.utils import util\nfrom . import metrics"),
    ],
)
def test_what_keeps_the_rules_is_not(importer, code):
    assert not list(violations(imports_of(MADE_UP | {importer: code})))


MADE_UP = dict.fromkeys(
    ("wfserve", "wfserve.compat", "wfserve.compat.ts", "wfserve.registry", "wfserve.dag", "wfserve.errors"),
    "",
) | {
    "wfserve.registry.catalogue": "",
    "wfserve.dag.graph": "",
    "wfserve.dag.walk": "import wfserve.dag.graph",
}
