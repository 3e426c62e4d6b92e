"""A Graph is a valid DAG with one start node. Pure, no I/O.

It crosses between processes, which compiled classes cannot: this module stays interpreted.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from wfserve.errors import InvalidDagError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence


class DagFault(InvalidDagError):  # noqa: N818 - it is one, and says where
    """An edge list that is no valid DAG; `nodes` are those to look at, in file order."""

    def __init__(self, message: str, nodes: Iterable[str]) -> None:
        super().__init__(message)
        self.nodes = tuple(nodes)


@dataclass(frozen=True, slots=True)
class Graph:
    """Nodes in a topological order that keeps the order of the file where it can."""

    nodes: tuple[str, ...]
    children: Mapping[str, tuple[str, ...]]
    parents: Mapping[str, tuple[str, ...]]
    start: str
    leaves: tuple[str, ...]

    @classmethod
    def from_edges(cls, dag: Mapping[str, Sequence[str]]) -> Graph:
        """Build a graph from `node → children`; leaves need no entry of their own.

        Raises `DagFault` with TorchServe's texts: `Self loop exception`, `loop exception` (it means an edge
        given twice), `DAG should have only one start node` (no root, or several), `Not a valid DAG`.
        """
        children = {node: tuple(kids) for node, kids in _with_leaves(dag).items()}
        _refuse_bad_edges(children)
        parents = _invert(children)
        roots = [node for node, above in parents.items() if not above]
        if len(roots) != 1:
            raise DagFault("DAG should have only one start node", roots or children)
        order = _topological(children, parents)
        if len(order) < len(children):
            raise DagFault("Not a valid DAG", [node for node in children if node not in set(order)])
        leaves = tuple(node for node in order if not children[node])
        return cls(tuple(order), children, parents, roots[0], leaves)


def _with_leaves(dag: Mapping[str, Sequence[str]]) -> dict[str, Sequence[str]]:
    every: dict[str, Sequence[str]] = {}
    for node, kids in dag.items():
        every[node] = kids
        for kid in kids:
            every.setdefault(kid, dag.get(kid, ()))
    return every


def _refuse_bad_edges(children: Mapping[str, tuple[str, ...]]) -> None:
    for node, kids in children.items():
        if node in kids:
            raise DagFault("Self loop exception", [node])
        if len(set(kids)) < len(kids):
            raise DagFault("loop exception", [node])


def _invert(children: Mapping[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    parents: dict[str, list[str]] = {node: [] for node in children}
    for node, kids in children.items():
        for kid in kids:
            parents[kid].append(node)
    return {node: tuple(above) for node, above in parents.items()}


def _topological(
    children: Mapping[str, tuple[str, ...]], parents: Mapping[str, tuple[str, ...]]
) -> list[str]:
    """Kahn's algorithm (CACM 1962); nodes on or behind a cycle are missing from the answer."""
    waiting = {node: len(above) for node, above in parents.items()}
    order = [node for node, count in waiting.items() if count == 0]
    for node in order:  # grows while we read it
        for kid in children[node]:
            waiting[kid] -= 1
            if waiting[kid] == 0:
                order.append(kid)
    return order
