"""What a handler imports is read from syntax trees, its own modules' included; no line of it is run."""

from __future__ import annotations

import ast
import importlib.util
import sys
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import wfserve

if TYPE_CHECKING:
    from collections.abc import Iterator

TS = "ts"  # the package that workers find in `wfserve/compat`
COMPAT = Path(wfserve.__file__).with_name("compat")
_TYPING = ("TYPE_CHECKING", "typing.TYPE_CHECKING")


@dataclass(frozen=True, slots=True)
class Import:
    """One import statement's wish for one module."""

    module: str  # absolute, as `import` would have it
    names: tuple[str, ...]  # what is wanted from it, modules perhaps
    line: int
    certain: bool  # whether loading the file is enough to need it; else a call, a branch or a `try` decides


@dataclass(frozen=True, slots=True)
class Missing:
    """A module that an import wants and that is neither in the archive nor installed."""

    module: str
    file: str
    line: int
    certain: bool


def default_handlers() -> frozenset[str]:
    """Return the names that a manifest may give instead of a handler of its own."""
    modules = (COMPAT / TS / "torch_handler").glob("*.py")
    return frozenset(module.stem for module in modules) - {"__init__"}


def is_installed(module: str) -> bool:
    """Whether the package of `module` is in the standard library or this environment; imports nothing."""
    top = module.partition(".")[0]
    try:
        return top in sys.stdlib_module_names or importlib.util.find_spec(top) is not None
    except ValueError:  # a module that is loaded and hides where it is from
        return True


def missing_imports(directory: Path, module: str) -> Iterator[Missing]:
    """Yield what `module`, in `directory` or of `ts`, and the modules there that it imports miss.

    Raises `SyntaxError` or `ValueError` if one of them is not Python.
    """
    waiting = [(module, True)]
    seen: set[str] = set()
    while waiting:
        name, certain = waiting.pop(0)
        path = _source(directory, name)
        if name in seen or path is None:
            continue
        seen.add(name)
        for each in _imports(path, name):
            needed = certain and each.certain
            local = [found for found in _candidates(each) if _is_local(directory, found)]
            waiting += [(found, needed) for found in local]
            if not local and _is_missing(name, each):
                yield Missing(each.module, path.name, each.line, needed)


def _is_missing(importer: str, each: Import) -> bool:
    if each.module.partition(".")[0] == TS:
        return True
    optional = importer.partition(".")[0] == TS and not each.certain  # `ts` looks before it imports
    return not optional and not is_installed(each.module)


def _candidates(each: Import) -> list[str]:
    return [*(f"{each.module}.{name}" for name in each.names), each.module]


def _is_local(directory: Path, module: str) -> bool:
    base = _base(directory, module)
    return base.with_name(f"{base.name}.py").is_file() or base.is_dir()


def _source(directory: Path, module: str) -> Path | None:
    base = _base(directory, module)
    files = (base.with_name(f"{base.name}.py"), base / "__init__.py")
    return next((file for file in files if file.is_file()), None)


def _base(directory: Path, module: str) -> Path:
    root = COMPAT if module.partition(".")[0] == TS else directory
    return root.joinpath(*module.split("."))


def _imports(path: Path, module: str) -> list[Import]:
    package = module if path.name == "__init__.py" else module.rpartition(".")[0]
    finder = _Finder(package)
    try:
        with warnings.catch_warnings(action="ignore"):  # of the code's own style
            finder.visit(ast.parse(path.read_bytes(), path.name))
    except (RecursionError, MemoryError):  # MemoryError is what the parser says of its own stack
        raise ValueError(f"{path.name} is nested too deeply") from None
    return finder.found


class _Finder(ast.NodeVisitor):
    """Collects the imports of one file."""

    def __init__(self, package: str) -> None:
        self.found: list[Import] = []
        self._package = package
        self._certain = True

    def visit_Import(self, node: ast.Import) -> None:
        self.found += [Import(alias.name, (), node.lineno, self._certain) for alias in node.names]

    def visit_ImportFrom(self, node: ast.ImportFrom) -> None:
        names = tuple(alias.name for alias in node.names)
        self.found.append(Import(self._absolute(node), names, node.lineno, self._certain))

    def _absolute(self, node: ast.ImportFrom) -> str:
        if not node.level:
            return node.module or ""
        parts = self._package.split(".")
        above = parts[: len(parts) - node.level + 1]
        return ".".join([*above, node.module] if node.module else above)

    def visit_If(self, node: ast.If) -> None:
        if ast.unparse(node.test) not in _TYPING:
            self._uncertain(node)

    def _uncertain(self, node: ast.AST) -> None:
        outside, self._certain = self._certain, False
        self.generic_visit(node)
        self._certain = outside

    visit_FunctionDef = visit_AsyncFunctionDef = visit_Try = _uncertain  # noqa: N815 - the visitor's names
