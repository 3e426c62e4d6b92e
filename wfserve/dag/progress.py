"""Progress says which nodes of a request may run. Pure, no I/O.

complete(node) ──▶ Step(ready: nodes whose last parent that was, spent: nodes whose last reader that was)

What was not counted yet costs nothing: a request through a chain that one stage serves counts only its nodes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.dag.graph import Graph


class Step(NamedTuple):
    """What became possible when a node completed."""

    ready: tuple[str, ...]
    spent: tuple[str, ...]


class Progress:
    """Where one request is in its graph. Each node completes once."""

    __slots__ = ("_graph", "_unread", "_waiting", "pending")

    def __init__(self, graph: Graph) -> None:
        self._graph = graph
        self._waiting: dict[str, int] = {}  # for how many parents, once one has completed
        self._unread: dict[str, int] = {}  # by how many children, once one has
        self.pending = len(graph.nodes)

    def complete(self, node: str) -> Step:
        """Note that `node` has completed: its children may be ready, its parents' outputs may be spent."""
        return self.complete_chain((node,))

    def complete_chain(self, chain: tuple[str, ...]) -> Step:
        """Note that the nodes of `chain` have completed, each of which was the only reader of the one before.

        What is spent and ready is outside the chain.
        """
        graph = self._graph
        self.pending -= len(chain)
        children, parents = graph.children[chain[-1]], graph.parents[chain[0]]
        return Step(
            _counted_down(self._waiting, children, graph.parents) if children else (),
            _counted_down(self._unread, parents, graph.children) if parents else (),
        )


def _counted_down(
    counts: dict[str, int], nodes: tuple[str, ...], before: Mapping[str, tuple[str, ...]]
) -> tuple[str, ...]:
    """Count each of `nodes` down, from as many as it has `before` it; return those that have come to 0."""
    for node in nodes:
        counts[node] = counts.get(node, len(before[node])) - 1
    return tuple([node for node in nodes if not counts[node]])
