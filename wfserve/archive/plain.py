"""A YAML document is plain data of bounded size: no tags, no cycles, no alias bombs."""

from __future__ import annotations

import re
from typing import Any

import yaml

MAX_CHARACTERS = 256 * 1024
MAX_NODES = 20_000  # counted as a reader meets them, aliases expanded
MAX_DEPTH = 64

_TAG = "tag:yaml.org,2002:"
NULL, BOOL, INT, FLOAT, STR, MERGE = (
    _TAG + kind for kind in ("null", "bool", "int", "float", "str", "merge")
)
_PLAIN = frozenset(
    {NULL, BOOL, INT, FLOAT, STR, MERGE} | {_TAG + kind for kind in ("timestamp", "seq", "map")}
)

_SURROGATE = re.compile("[\ud800-\udfff]")  # an escape can make one; no encoding can write it


class YamlError(Exception):
    """A text that is not plain YAML; `line` and `column` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column

    def __str__(self) -> str:
        return f"line {self.line}, column {self.column}: {self.message}"


def compose(text: str) -> yaml.Node | None:
    """Return the root node of the only document of `text`, None if it is empty.

    The graph of nodes is acyclic, at most `MAX_DEPTH` deep and `MAX_NODES` large with aliases expanded.
    Raises `YamlError`.
    """
    if len(text) > MAX_CHARACTERS:
        raise YamlError(f"the text is longer than {MAX_CHARACTERS} characters", 1, 1)
    try:
        root = yaml.compose(text, yaml.SafeLoader)
    except yaml.MarkedYAMLError as error:
        raise _located(error) from None
    except yaml.reader.ReaderError as error:
        raise _unprintable(text, error) from None
    except RecursionError:
        raise YamlError("the document is nested too deeply", 1, 1) from None
    except (ValueError, OverflowError) as error:  # an escape beyond Unicode, a directive of 5000 digits
        raise YamlError(f"a value is out of range: {error}", 1, 1) from None
    if root is not None:
        _verify(root)
    return root


def load(text: str) -> Any:
    """Return the plain Python value of `text`, None if it is empty. Raises `YamlError`."""
    root = compose(text)
    if root is None:
        return None
    try:
        return yaml.constructor.SafeConstructor().construct_document(root)
    except yaml.MarkedYAMLError as error:
        raise _located(error) from None
    except (ValueError, OverflowError, LookupError, AttributeError, TypeError) as error:
        # the constructors trust what the resolver matched: `!!bool maybe`, 2024-99-99
        raise YamlError(f"a value does not fit its type: {error}", 1, 1) from None


def flatten(mapping: yaml.MappingNode) -> None:
    """Replace the merge keys (`<<`) of `mapping`, in place, by what they merge. Raises `YamlError`."""
    try:
        yaml.constructor.SafeConstructor().flatten_mapping(mapping)
    except yaml.MarkedYAMLError as error:
        raise _located(error) from None


def error_at(node: yaml.Node, message: str) -> YamlError:
    """Return a fault at the start of `node`."""
    return YamlError(message, node.start_mark.line + 1, node.start_mark.column + 1)


def _located(error: yaml.MarkedYAMLError) -> YamlError:
    mark = error.problem_mark or error.context_mark
    message = ", ".join(part for part in (error.context, error.problem) if part)
    return YamlError(message, mark.line + 1, mark.column + 1) if mark else YamlError(message, 1, 1)


def _unprintable(text: str, error: yaml.reader.ReaderError) -> YamlError:
    before = text[: error.position]
    column = len(before) - (before.rfind("\n") + 1)
    return YamlError("a character that YAML does not allow", before.count("\n") + 1, column + 1)


def _verify(root: yaml.Node) -> None:
    pending = [(root, 1)]
    for _ in range(MAX_NODES):
        if not pending:
            return
        node, depth = pending.pop()
        if depth > MAX_DEPTH:
            raise error_at(node, f"the document is nested more than {MAX_DEPTH} deep")
        if node.tag not in _PLAIN:
            raise error_at(node, f"the tag '{node.tag}' is not allowed: plain data only")
        if isinstance(node, yaml.ScalarNode) and _SURROGATE.search(node.value):
            raise error_at(node, "half of a surrogate pair is no character")
        pending += [(child, depth + 1) for child in _children(node)]
    raise error_at(root, f"the document has more than {MAX_NODES} nodes with its aliases expanded")


def _children(node: yaml.Node) -> list[yaml.Node]:
    if isinstance(node, yaml.MappingNode):
        return [child for pair in node.value for child in pair]
    return list(node.value) if isinstance(node, yaml.SequenceNode) else []
