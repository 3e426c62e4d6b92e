"""Checking finds everything wrong with a file at once, with its place, and never runs a line of it."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

from wfserve.archive.diagnostics import Diagnostic, Position, Severity, closest, in_file_order
from wfserve.archive.extract import (
    MODEL_MANIFEST,
    ArchiveKind,
    ExtractLimits,
    container_of,
    extract,
    sniff,
)
from wfserve.archive.functions import HandlerNames, names_in
from wfserve.archive.manifest import member_of
from wfserve.archive.mar import read_model
from wfserve.archive.spec import SpecError, WorkflowSpec, decode_spec, read_spec
from wfserve.archive.war import WorkflowManifest, handler_file, read_workflow_manifest
from wfserve.dag.graph import DagFault, Graph
from wfserve.errors import InvalidWorkflowError, WfserveError

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

_EXPLAINED = {
    "Self loop exception": "a node is its own child",
    "loop exception": "an edge is given twice",
    "DAG should have only one start node": "the start node is the one that is nobody's child",
    "Not a valid DAG": "there is a cycle",
}  # TorchServe's texts need it


def check_file(path: Path) -> list[Diagnostic]:
    """Check a specification, a workflow or model archive, or the directory of one, told by content.

    Returns what was found, in file order: as errors what registration would meet, as warnings likely slips.
    """
    try:
        if not path.exists():
            return [Diagnostic(str(path), 1, 1, "no such file")]
        if not (path.is_file() or path.is_dir()):  # a device may have no end
            return [Diagnostic(str(path), 1, 1, "neither a file nor a directory")]
        if container_of(path) is None:
            return check_spec(decode_spec(path.read_bytes(), str(path)), str(path), None)
        return _check_archive(path)
    except SpecError as error:
        return list(error.diagnostics)
    except WfserveError as error:
        return [Diagnostic(str(path), 1, 1, error.message)]
    except OSError as error:
        return [Diagnostic(str(path), 1, 1, f"cannot be read: {error.strerror}")]


def check_spec(
    text: str, filename: str, functions: Collection[str] | HandlerNames | None
) -> list[Diagnostic]:
    """Check a specification against the functions of its handler file, None if that file is not known."""
    try:
        spec, found = read_spec(text, filename)
    except SpecError as error:
        return list(error.diagnostics)
    if functions is not None and not isinstance(functions, HandlerNames):
        functions = HandlerNames(frozenset(functions))
    checker = _Checker(spec, filename, functions)
    if spec.dag or not any(diagnostic.is_error for diagnostic in found):
        found += checker.graph()
    found += checker.names()
    return sorted(found, key=in_file_order)


def _check_archive(path: Path) -> list[Diagnostic]:
    kind = sniff(path)
    if path.is_dir():
        return _check_directory(kind, path, path)
    with tempfile.TemporaryDirectory(prefix="wfserve-check-") as scratch:
        extract(path, Path(scratch, "archive"), ExtractLimits())
        return _check_directory(kind, Path(scratch, "archive"), path)


def _check_directory(kind: ArchiveKind, directory: Path, shown: Path) -> list[Diagnostic]:
    if kind is ArchiveKind.MODEL:
        return [] if read_model(directory).handler else [_no_handler(shown)]
    manifest = read_workflow_manifest(directory)
    filename = str(shown / manifest.spec_file)
    text = decode_spec(member_of(directory, manifest.spec_file, InvalidWorkflowError).read_bytes(), filename)
    functions, broken = _functions_of(directory, manifest, shown)
    return check_spec(text, filename, functions) + broken


def _no_handler(shown: Path) -> Diagnostic:
    what = "the manifest names no handler: the server's default_service_handler is taken"
    return Diagnostic(str(shown / MODEL_MANIFEST), 1, 1, what, severity="warning")


def _functions_of(
    directory: Path, manifest: WorkflowManifest, shown: Path
) -> tuple[HandlerNames, list[Diagnostic]]:
    """Return what the handler file defines; where it cannot be read nothing can be said of a name."""
    if not manifest.handler:
        return HandlerNames(frozenset()), []
    file = str(shown / manifest.handler)
    try:
        return names_in(handler_file(directory, manifest).read_bytes(), file), []
    except SyntaxError as error:
        broken = Diagnostic(file, error.lineno or 1, error.offset or 1, f"not Python: {error.msg}")
    except ValueError as error:
        broken = Diagnostic(file, 1, 1, f"not Python: {error}")
    except WfserveError as error:
        broken = Diagnostic(file, 1, 1, error.message)
    return HandlerNames(frozenset(), complete=False), [broken]


class _Checker:
    """The checks that need more than one place of a specification."""

    def __init__(self, spec: WorkflowSpec, filename: str, functions: HandlerNames | None) -> None:
        self._spec = spec
        self._filename = filename
        self._functions = functions
        self._places = _first_places(spec)
        self._unused = [name for name in spec.models if name not in self._places]

    def graph(self) -> Iterator[Diagnostic]:
        try:
            Graph.from_edges(self._spec.dag)
        except DagFault as fault:
            why = _EXPLAINED.get(fault.message, "")
            names = ", ".join(fault.nodes)
            yield self._at(self._place(fault), f"{fault.message}: {why}" + (f" ({names})" if names else ""))

    def names(self) -> Iterator[Diagnostic]:
        for name in self._unused:
            where = self._spec.positions["models", name]
            yield self._at(where, f"model '{name}' is not used in the dag", severity="warning")
        for name in self._spec.functions.keys() - self._places.keys():
            where = self._spec.positions["functions", name]
            yield self._at(where, f"'{name}' is not in the dag", closest(name, self._places), "warning")
        for node in filter(self._spec.is_function, self._places):
            yield from self._function(node)

    def _place(self, fault: DagFault) -> Position:
        """Return where the edge is that is wrong by itself, else where the first node is described."""
        positions = self._spec.positions
        if not fault.nodes:
            return positions.get(("dag",), Position(1, 1))
        node = fault.nodes[0]
        children = self._spec.dag.get(node, ())
        edges = [("dag", node, child) for child in children if child == node or children.count(child) > 1]
        return positions[edges[-1]] if edges else positions.get(("dag", node), self._places[node])

    def _function(self, node: str) -> Iterator[Diagnostic]:
        place = self._places[node]
        if self._functions is None:
            meant = closest(node, self._unused)
            if meant is not None:
                yield self._at(place, f"'{node}' is not a model", meant)
        elif node not in self._functions.names:
            meant = closest(node, {*self._spec.models, *self._functions.names})
            message = f"'{node}' is neither a model nor a function of the handler file"
            yield self._at(place, message, meant, "error" if self._functions.complete else "warning")

    def _at(
        self, where: Position, message: str, hint: str | None = None, severity: Severity = "error"
    ) -> Diagnostic:
        return Diagnostic(self._filename, *where, message, hint, severity)


def _first_places(spec: WorkflowSpec) -> dict[str, Position]:
    """Return each node of the dag with the first place that names it."""
    places: dict[str, Position] = {}
    for path, position in spec.positions.items():
        if path[0] == "dag" and len(path) > 1:
            places[path[-1]] = min(position, places.get(path[-1], position))
    return places
