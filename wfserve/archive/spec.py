"""A WorkflowSpec is complete and in range: every node has all its settings, every name its place in the file.

Settings are read in file order, as TorchServe reads them: a global that follows a model does not reach it.
"""

from __future__ import annotations

import dataclasses
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, NoReturn

import yaml

from wfserve.archive import plain
from wfserve.archive.diagnostics import Diagnostic, Position, Severity, closest, in_file_order
from wfserve.dtypes import DTYPES
from wfserve.errors import InvalidWorkflowError

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping, Sequence

LONGEST_NAME = 200  # bytes; a node's name becomes part of a directory's
LARGEST = 2**31 - 1  # TorchServe's integers have 32 bits
MOST_DIMENSIONS = 10  # of a tensor that goes from node to node
SHA256 = re.compile(r"[0-9a-fA-F]{64}")
VERSION = re.compile(r"[0-9]+(?:\.[0-9]+)*")  # of a workflow
LONGEST_VERSION = 64  # characters
MOST_WORKERS = 1024  # of one model; a slip of the finger must not start a million processes
SECTIONS = frozenset({"models", "dag", "functions", "version"})
Path = tuple[str, ...]  # names from the root of the document down: ("models", "m1", "batch-size")


@dataclass(frozen=True, slots=True)
class NodeSettings:
    """How one node runs; the defaults are TorchServe's, the last seven are wfserve's own."""

    min_workers: int = 1
    max_workers: int = 1
    batch_size: int = 1  # requests
    max_batch_delay_ms: int = 50
    retry_attempts: int = 1  # further attempts after the first
    timeout_ms: int = 10_000  # of one attempt, its time in the queue included
    data_format: Literal["bytes", "native"] = "bytes"
    copy_inputs: bool = False
    isolate: bool = True
    fuse: bool | None = None  # share workers with the nodes before and behind it; None: as it seems best
    share: bool = False  # and with equal nodes of other workflows and versions
    input_shape: tuple[int, ...] | None = None  # of one request's tensor in a raw body; None: not declared
    input_dtype: str = "float32"  # and its element type, by torch's name


@dataclass(frozen=True, slots=True)
class ModelSpec:
    """A model of the workflow: the archive to load and how to run it."""

    name: str
    url: str
    settings: NodeSettings
    sha256: str = ""  # of the archive, 64 hexadecimal digits; empty: whatever is there is loaded


@dataclass(frozen=True, slots=True)
class WorkflowSpec:
    """A specification as read; that `dag` is a DAG is for `Graph.from_edges` to say."""

    settings: NodeSettings  # the final global values
    models: Mapping[str, ModelSpec]  # in file order; those the DAG never names are not loaded
    functions: Mapping[str, NodeSettings]  # of the `functions` section
    dag: Mapping[str, tuple[str, ...]]
    positions: Mapping[Path, Position]  # of keys, and of the children in the lists of `dag`
    version: str | None = None  # of the workflow, digits and dots

    def is_function(self, node: str) -> bool:
        """Whether `node` is a function of the archive's handler file."""
        return node not in self.models

    def settings_of(self, node: str) -> NodeSettings:
        """Return how `node` runs; a function node has one worker that takes one request a call."""
        if not self.is_function(node):
            return self.models[node].settings
        return self.functions.get(node) or _for_function(self.settings)


class SpecError(InvalidWorkflowError):
    """A specification with errors; HTTP shows the first, `wfserve check` all `diagnostics`."""

    def __init__(self, message: str, diagnostics: Sequence[Diagnostic], *, code: int = 400) -> None:
        super().__init__(message, code=code)
        self.diagnostics = tuple(diagnostics)


def parse_spec(text: str, filename: str) -> WorkflowSpec:
    """Return the specification in `text`; `filename` is for messages. Raises `SpecError`."""
    spec, diagnostics = read_spec(text, filename)
    errors = [found for found in diagnostics if found.is_error]
    if errors:
        raise SpecError(str(errors[0]), errors)
    return spec


def read_spec(text: str, filename: str) -> tuple[WorkflowSpec, list[Diagnostic]]:
    """Return what can be made of `text`, and all that is wrong with it, in file order.

    The specification is fit for use only if no diagnostic is an error. Raises `SpecError` with TorchServe's
    text if `text` is not plain YAML at all.
    """
    reader = _Reader(filename)
    try:
        spec = reader.document(plain.compose(text))
    except plain.YamlError as fault:
        _refuse(Diagnostic(filename, fault.line, fault.column, fault.message))
    return spec, sorted(reader.diagnostics, key=in_file_order)


def decode_spec(data: bytes, filename: str) -> str:
    """Return the text of a specification file, which is UTF-8. Raises `SpecError`."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start]
        column = len(before) - before.rfind(b"\n")
        _refuse(Diagnostic(filename, before.count(b"\n") + 1, column, "the text is not valid UTF-8"))


def _refuse(found: Diagnostic) -> NoReturn:
    raise SpecError("Failed to parse yaml.", [found], code=InvalidWorkflowError.status) from None


def is_version(text: str | None) -> bool:
    """Whether `text` can be the version of a workflow."""
    return text is not None and len(text) <= LONGEST_VERSION and VERSION.fullmatch(text) is not None


def _for_function(settings: NodeSettings) -> NodeSettings:
    return dataclasses.replace(
        settings,
        min_workers=1,
        max_workers=1,
        batch_size=1,
        max_batch_delay_ms=0,
        share=False,
        input_shape=None,
    )


def _integer(lowest: int, largest: int = LARGEST) -> Callable[[yaml.Node], int]:
    def read(node: yaml.Node) -> int:
        if node.tag != plain.INT or not isinstance(node, yaml.ScalarNode):
            raise ValueError("must be an integer")
        value = _int_or_none(node)
        if value is None or not lowest <= value <= largest:
            raise ValueError(f"must be an integer from {lowest} to {largest}")
        return value

    return read


def _int_or_none(node: yaml.ScalarNode) -> int | None:
    try:
        return int(yaml.constructor.SafeConstructor().construct_yaml_int(node))
    except (ValueError, IndexError):  # `!!int word`, `!!int ""`, or more digits than Python converts
        return None


def _switch(node: yaml.Node) -> bool:
    words = yaml.constructor.SafeConstructor.bool_values
    if node.tag != plain.BOOL or node.value.lower() not in words:
        raise ValueError("must be on or off")
    return bool(words[node.value.lower()])


def _data_format(node: yaml.Node) -> str:
    if node.value not in ("bytes", "native"):
        raise ValueError("must be bytes or native")
    return str(node.value)


def _shape(node: yaml.Node) -> tuple[int, ...]:
    if not isinstance(node, yaml.SequenceNode):
        raise ValueError("must be a list of sizes, such as [3, 224, 224]")
    if len(node.value) > MOST_DIMENSIONS:
        raise ValueError(f"has at most {MOST_DIMENSIONS} sizes")
    try:
        return tuple([_integer(0)(size) for size in node.value])
    except ValueError as error:
        raise ValueError(f"holds sizes, each of which {error}") from None


def _dtype(node: yaml.Node) -> str:
    name = _name(node)
    if name not in DTYPES:
        raise ValueError(f"must be one of torch's, such as {closest(name or '', DTYPES) or 'float32'}")
    return name


_Given = dict[str, Any]  # the fields of NodeSettings that a map of the file sets

SETTINGS: Mapping[str, tuple[str, Callable[[yaml.Node], Any]]] = {
    "min-workers": ("min_workers", _integer(0, MOST_WORKERS)),
    "max-workers": ("max_workers", _integer(0, MOST_WORKERS)),
    "batch-size": ("batch_size", _integer(1)),
    "max-batch-delay": ("max_batch_delay_ms", _integer(0)),
    "retry-attempts": ("retry_attempts", _integer(0)),
    "timeout-ms": ("timeout_ms", _integer(1)),
    "data-format": ("data_format", _data_format),
    "copy-inputs": ("copy_inputs", _switch),
    "isolate": ("isolate", _switch),
    "fuse": ("fuse", _switch),
    "share": ("share", _switch),
    "input-shape": ("input_shape", _shape),
    "input-dtype": ("input_dtype", _dtype),
}
FUNCTION_SETTINGS = SETTINGS.keys() - {
    *("min-workers", "max-workers", "batch-size", "max-batch-delay", "share")
}


def _resolve(shared: _Given, own: _Given) -> NodeSettings:
    """Lay a model's settings over the globals so far; of two worker counts the more specific one holds.

    TorchServe looks at max-workers alone, so archives exist whose inherited min-workers is above it.
    """
    settings = dataclasses.replace(NodeSettings(), **{**shared, **own})
    if settings.min_workers <= settings.max_workers:
        return settings
    if "max_workers" in own or ("max_workers" in shared and "min_workers" not in own):
        return dataclasses.replace(settings, min_workers=settings.max_workers)
    return dataclasses.replace(settings, max_workers=settings.min_workers)


class _Reader:
    """Reads one document, and goes on after each error so that all are reported at once."""

    def __init__(self, filename: str) -> None:
        self.diagnostics: list[Diagnostic] = []
        self._filename = filename
        self._positions: dict[Path, Position] = {}

    def document(self, root: yaml.Node | None) -> WorkflowSpec:
        sections = self._entries(root, (), "a specification") if root else {}
        for name in sections.keys() - SECTIONS:
            self._report((name,), f"unknown section '{name}' is ignored", closest(name, SECTIONS), "warning")
        for name in ("models", "dag"):
            if name not in sections or sections[name].tag == plain.NULL:
                self._report((name,), f"a specification needs a '{name}' section")
        settings, models = self._models(sections.get("models"))
        functions = self._functions(sections.get("functions"), settings, models)
        dag = self._dag(sections.get("dag"))
        version = self._version(sections.get("version"))
        return WorkflowSpec(settings, models, functions, dag, self._positions, version)

    def _version(self, node: yaml.Node | None) -> str | None:
        if node is None:
            return None
        if node.tag in (plain.INT, plain.FLOAT):  # 1.10 would be 1.1
            self._report(("version",), f'a version is text: write it in quotes, "{node.value}"')
        elif not is_version(_name(node)):
            self._report(("version",), "a version is made of digits and dots, such as '1.10'")
        return _name(node)

    def _models(self, node: yaml.Node | None) -> tuple[NodeSettings, dict[str, ModelSpec]]:
        shared: _Given = {}
        models: dict[str, ModelSpec] = {}
        for name, value in self._section(node, "models").items():
            self._check_name(("models", name))
            if name in SETTINGS:
                self._setting(("models", name), value, shared)
            elif isinstance(value, yaml.MappingNode):
                models[name] = self._model(name, value, shared)
            else:
                problem = f"'{name}' is neither a setting nor a map with the model's url"
                self._report(("models", name), problem, closest(name, SETTINGS))
        self._compare_workers(("models",), shared)
        return _resolve(shared, {}), models

    def _model(self, name: str, node: yaml.MappingNode, shared: _Given) -> ModelSpec:
        path = ("models", name)
        own: _Given = {}
        url = sha256 = ""
        for key, value in self._entries(node, path, f"model '{name}'").items():
            if key in SETTINGS:
                self._setting((*path, key), value, own)
            elif key == "url":
                url = self._url((*path, key), value)
            elif key == "sha256":
                sha256 = self._sha256(value)
            else:
                guess = closest(key, [*SETTINGS, "url", "sha256"])
                self._report((*path, key), f"unknown setting '{key}' is ignored", guess, "warning")
        if (*path, "url") not in self._positions:
            self._report(path, f"model '{name}' needs a url")
        self._compare_workers(path, own)
        return ModelSpec(name, url, _resolve(shared, own), sha256)

    def _functions(
        self, node: yaml.Node | None, settings: NodeSettings, models: Collection[str]
    ) -> dict[str, NodeSettings]:
        functions: dict[str, NodeSettings] = {}
        for name, value in self._section(node, "functions").items():
            path = ("functions", name)
            if name in models:
                self._report(path, f"'{name}' is a model: its settings belong under 'models'")
            own: _Given = {}
            for key, given in self._entries(value, path, f"function '{name}'").items():
                if key in FUNCTION_SETTINGS:
                    self._setting((*path, key), given, own)
                else:
                    guess = closest(key, FUNCTION_SETTINGS)
                    self._report((*path, key), f"'{key}' is not a setting of functions", guess)
            functions[name] = dataclasses.replace(_for_function(settings), **own)
        return functions

    def _dag(self, node: yaml.Node | None) -> dict[str, tuple[str, ...]]:
        dag: dict[str, tuple[str, ...]] = {}
        for name, value in self._section(node, "dag").items():
            self._check_name(("dag", name))
            if isinstance(value, yaml.SequenceNode):
                dag[name] = tuple(self._children(("dag", name), value))
            else:
                self._report(("dag", name), f"the children of '{name}' must be a list, such as [a, b] or []")
        return dag

    def _children(self, path: Path, node: yaml.SequenceNode) -> list[str]:
        children = []
        for item in node.value:
            name = _name(item)
            if name is not None:
                self._positions[(*path, name)] = _position(item)
                self._check_name((*path, name))
                children.append(name)
            elif not _is_blank(item):
                self._report_at(_position(item), "a child must be the name of a node")
        return children

    def _check_name(self, path: Path) -> None:
        name = path[-1]
        if "/" in name or name in (".", "..") or not name.isprintable() or len(name.encode()) > LONGEST_NAME:
            self._report(path, f"{name[:40]!r} cannot name a node")

    def _url(self, path: Path, node: yaml.Node) -> str:
        if node.tag != plain.STR or not _name(node):
            self._report(path, "url must be the name of a model archive, or a URL")
            return ""
        return str(node.value)

    def _sha256(self, node: yaml.Node) -> str:
        text = str(node.value)  # as it is written: all digits would be a number to YAML
        if not SHA256.fullmatch(text):
            self._report_at(_position(node), "sha256 must be 64 hexadecimal digits")
        return text

    def _setting(self, path: Path, node: yaml.Node, given: _Given) -> None:
        field, read = SETTINGS[path[-1]]
        try:
            given[field] = read(node)
        except ValueError as error:
            self._report_at(_position(node), f"{path[-1]} {error}")

    def _compare_workers(self, path: Path, given: _Given) -> None:
        least, most = given.get("min_workers"), given.get("max_workers")
        if least is not None and most is not None and least > most:
            self._report((*path, "min-workers"), f"min-workers {least} is more than max-workers {most}")

    def _section(self, node: yaml.Node | None, name: str) -> dict[str, yaml.Node]:
        return self._entries(node, (name,), f"'{name}'") if node else {}

    def _entries(self, node: yaml.Node, path: Path, what: str) -> dict[str, yaml.Node]:
        """Return the values of a map by name, and note where the keys are; nothing for an empty value."""
        if node.tag == plain.NULL:
            return {}
        if not isinstance(node, yaml.MappingNode):
            self._report_at(_position(node), f"{what} must be a map")
            return {}
        self._warn_of_repeats(node)
        plain.flatten(node)
        entries: dict[str, yaml.Node] = {}
        for key, value in node.value:
            name = _name(key)
            if name is None:
                self._report_at(_position(key), f"a key of {what} must be a name")
            else:
                self._positions[(*path, name)] = _position(key)
                entries[name] = value
        return entries

    def _warn_of_repeats(self, node: yaml.MappingNode) -> None:
        seen = set()
        for key, _ in node.value:
            name = _name(key) if key.tag != plain.MERGE else None
            if name is not None and name in seen:
                self._report_at(_position(key), f"'{name}' is given twice: the last one counts", "warning")
            seen.add(name)

    def _report(
        self, path: Path, message: str, hint: str | None = None, severity: Severity = "error"
    ) -> None:
        line, column = self._positions.get(path, (1, 1))
        self.diagnostics.append(Diagnostic(self._filename, line, column, message, hint, severity))

    def _report_at(self, position: Position, message: str, severity: Severity = "error") -> None:
        self.diagnostics.append(Diagnostic(self._filename, *position, message, severity=severity))


def _position(node: yaml.Node) -> Position:
    return Position(node.start_mark.line + 1, node.start_mark.column + 1)


def _is_blank(node: yaml.Node) -> bool:
    return isinstance(node, yaml.ScalarNode) and (node.tag == plain.NULL or not node.value.strip())


def _name(node: yaml.Node) -> str | None:
    """Return the text of a scalar as it is written, so that `on` and `1` are names as well."""
    return None if not isinstance(node, yaml.ScalarNode) or _is_blank(node) else str(node.value)
