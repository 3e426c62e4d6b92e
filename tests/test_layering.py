"""Imports point down the list of rooms, and modules do not import each other in a circle."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent / "wfserve"
ROOMS = [
    "cli",
    "launch",
    "client",
    "asgi",
    "http",
    "registry",
    "state",
    "dag",
    "scheduling",
    "workers",
    "child",
    "transport",
    "_native",
    "archive",
    "compat",
    "config",
    "errors",
]
SERVES_EVERYONE = {"config", "errors", "__version__"}
HEAVY = {"torch", "httpx", "sklearn", "torchvision", "onnxruntime"}
MAY_BE_HEAVY = ("child", "compat")


def modules() -> dict[str, str]:
    """Dotted name → source of every module of the package."""
    return {
        ".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path.read_text()
        for path in ROOT.rglob("*.py")
        if "compat" not in path.relative_to(ROOT).parts[:1]
    }


def imports(source: str, known: set[str], *, typing: bool = True, inner: bool = True) -> set[str]:
    """Modules that `source` imports; without `typing` those of TYPE_CHECKING blocks are left out."""
    found: set[str] = set()

    def visit(node: ast.AST) -> None:
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in known else node.module)
        elif not typing and isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING":
            return
        if not inner and isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            return
        for child in ast.iter_child_nodes(node):
            visit(child)

    visit(ast.parse(source))
    return found


def room(module: str) -> str:
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__version__"


def upward(sources: dict[str, str]) -> list[str]:
    """Imports that point up, or at a room that is on no list."""
    wrong = []
    for name, source in sources.items():
        mine = room(name)
        for target in sorted(imports(source, set(sources))):
            theirs = room(target)
            if not target.startswith("wfserve") or theirs in SERVES_EVERYONE | {mine}:
                continue
            if theirs not in ROOMS or ROOMS.index(theirs) < ROOMS.index(mine):
                wrong.append(f"{name} imports {target}")
    return wrong


def cycle(sources: dict[str, str]) -> list[str]:
    """The modules of a circle of imports at run time, if there is one."""
    known = set(sources)
    graph = {
        name: imports(source, known, typing=False, inner=False) & known for name, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


def heavy(sources: dict[str, str]) -> list[str]:
    """Heavy imports at module level, outside the rooms that run in workers."""
    return [
        f"{name} imports {found}"
        for name, source in sources.items()
        if room(name) not in MAY_BE_HEAVY
        for found in sorted(imports(source, set(), typing=False, inner=False))
        if found.split(".")[0] in HEAVY
    ]


def test_imports_point_down():
    assert upward(modules()) == []


def test_there_is_no_circle():
    assert cycle(modules()) == []


def test_heavy_imports_are_inside_functions():
    assert heavy(modules()) == []


def test_every_room_is_on_the_list():
    found = {room(name) for name in modules()} - {"__init__", "__version__"}
    assert found <= set(ROOMS)


def test_nobody_imports_the_handlers_package():
    named = [name for name, source in modules().items() if "wfserve.compat" in str(imports(source, set()))]
    assert named == []


@pytest.mark.parametrize(
    ("source", "found"),
    [
        ("import wfserve.http.predict", True),
        ("from wfserve.dag import walk", True),
        ("def f():\n    from wfserve.dag.walk import walk", True),
        ("if TYPE_CHECKING:\n    from wfserve.scheduling.queue import Ticket", True),
        ("from wfserve.nowhere import x", True),
        ("from wfserve.transport import base", False),
        ("from wfserve.errors import WfserveError", False),
        ("from wfserve.workers.base import Pool", False),
    ],
)
def test_the_checker_sees_what_points_up(source, found):
    assert bool(upward({"wfserve.workers.made_up": source})) is found


def test_the_checker_sees_a_circle():
    a, b = "from wfserve.dag.b import x", "import wfserve.dag.a"
    assert cycle({"wfserve.dag.a": a, "wfserve.dag.b": b}) != []
    assert cycle({"wfserve.dag.a": a, "wfserve.dag.b": f"if TYPE_CHECKING:\n    {b}"}) == []


def test_the_checker_sees_heavy_imports():
    assert heavy({"wfserve.http.x": "import torch"}) == ["wfserve.http.x imports torch"]
    assert heavy({"wfserve.http.x": "def f():\n    import torch"}) == []
    assert heavy({"wfserve.child.x": "import torch"}) == []
