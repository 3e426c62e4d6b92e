"""The names that a handler file defines are read from its syntax tree; the file is never run."""

from __future__ import annotations

import ast
import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

_DYNAMIC_CALLS = frozenset({"globals", "locals", "vars", "setattr", "exec"})


@dataclass(frozen=True, slots=True)
class HandlerNames:
    """What a handler file defines at its top level; more may exist if this is not `complete`."""

    names: frozenset[str]
    complete: bool = True


def names_in(source: str | bytes, filename: str) -> HandlerNames:
    """Return the top-level names of a handler file.

    Star imports, `globals()` and the like leave the answer incomplete, and so does a class with a `handle`
    method: a sole one serves every function that the file lacks. Raises `SyntaxError` or `ValueError`.
    """
    try:
        with warnings.catch_warnings(action="ignore"):  # of the code's own style
            return _names_of(ast.parse(source, filename))
    except (RecursionError, MemoryError):  # MemoryError is what the parser says of its own stack
        raise ValueError("the file is nested too deeply") from None


def _names_of(tree: ast.Module) -> HandlerNames:
    names = frozenset(name for statement in _top_level(tree.body) for name in _bound_by(statement))
    return HandlerNames(names, not (_is_dynamic(tree) or "__getattr__" in names or _has_handler_class(tree)))


def _top_level(body: list[ast.stmt]) -> Iterator[ast.stmt]:
    """Give the statements that run in the module's own scope, those in its branches and loops too."""
    for statement in body:
        yield statement
        if not isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            for field in ast.iter_child_nodes(statement):
                if isinstance(field, ast.stmt):
                    yield from _top_level([field])
                elif isinstance(field, ast.ExceptHandler | ast.match_case):
                    yield from _top_level(field.body)


def _bound_by(statement: ast.stmt) -> Iterator[str]:
    if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
        yield statement.name
    elif isinstance(statement, ast.Import | ast.ImportFrom):
        for alias in statement.names:
            yield alias.asname or alias.name.partition(".")[0]
    else:
        for node in ast.walk(statement):
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
                yield node.id


def _is_dynamic(tree: ast.Module) -> bool:
    return any(
        (isinstance(node, ast.ImportFrom) and node.names[0].name == "*")
        or (isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _DYNAMIC_CALLS)
        for node in ast.walk(tree)
    )


def _has_handler_class(tree: ast.Module) -> bool:
    """Whether one class could stand in for missing functions; an imported base may give it its `handle`."""
    classes = [node for node in tree.body if isinstance(node, ast.ClassDef)]
    return any(c.bases or any(getattr(item, "name", "") == "handle" for item in c.body) for c in classes)
