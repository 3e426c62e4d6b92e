"""A Plan divides a graph's nodes into stages, each served by one set of workers. Pure, no I/O.

A chain of nodes with one input each can share a stage: its requests make one hop instead of one a node. A
stage is fused where that shows as speed alone, or where it was asked for (`fuse: on`):

    a ──▶ f ──▶ m ──▶ g ──▶ h        f, g, h functions, m a model with one worker
    └──▶ n                           stages: [a] [f m g h] [n]

An edge that is not fused has a reason, which `wfserve plan` prints.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.dag.graph import Graph


@dataclass(frozen=True, slots=True)
class NodeFacts:
    """What fusing depends on, of one node."""

    is_function: bool
    min_workers: int = 1
    max_workers: int = 1
    fuse: bool | None = None  # as the specification says; None if it says nothing
    own_packages: bool = False  # its workers have an interpreter of their own
    shared: bool = False  # with equal nodes of other workflows


class Edge(NamedTuple):
    """One edge of the graph: fused, or why not."""

    parent: str
    child: str
    fused: bool
    reason: str


@dataclass(frozen=True, slots=True)
class Plan:
    """Stages in a topological order; each is a chain, in the order it runs."""

    stages: tuple[tuple[str, ...], ...]
    edges: tuple[Edge, ...]

    @property
    def hops_saved(self) -> int:
        """Hops to a worker and back that a request does not make."""
        return sum(len(stage) - 1 for stage in self.stages)


def plan(graph: Graph, facts: Mapping[str, NodeFacts]) -> Plan:
    """Divide `graph` into stages. Each node is in exactly one."""
    stages: dict[str, list[str]] = {}  # by the node that each ends with, so far
    edges = []
    for node in graph.nodes:
        above = [_judge(graph, facts, stages, parent, node) for parent in graph.parents[node]]
        edges += above
        chain = stages.pop(above[0].parent) if above and above[0].fused else []
        stages[node] = [*chain, node]
    order = {node: position for position, node in enumerate(graph.nodes)}
    chains = sorted(stages.values(), key=lambda chain: order[chain[0]])
    return Plan(tuple(map(tuple, chains)), tuple(edges))


def _judge(
    graph: Graph, facts: Mapping[str, NodeFacts], stages: Mapping[str, list[str]], parent: str, child: str
) -> Edge:
    if len(graph.children[parent]) > 1:
        return Edge(parent, child, fused=False, reason=f"{parent} has several children")
    if len(graph.parents[child]) > 1:
        return Edge(parent, child, fused=False, reason=f"{child} has several parents")
    obstacle = _obstacle(facts, stages[parent], child)
    return Edge(parent, child, fused=not obstacle, reason=obstacle or "one input, one reader")


def _obstacle(facts: Mapping[str, NodeFacts], chain: list[str], child: str) -> str:
    """Return why `child` may not be run behind `chain`, empty if it may."""
    together = [*chain, child]
    for node in together:
        if facts[node].own_packages:
            return f"{node} has packages of its own, and so an interpreter of its own"
    for node in together:
        if facts[node].fuse is False:
            return f"{node} says fuse: off"
        if facts[node].shared:
            return f"{node} says share: on, and other workflows do not have the rest of this one"
    models = [node for node in together if not facts[node].is_function]
    unasked = [node for node in together if not facts[node].fuse]
    if len(models) > 1 and unasked:
        return f"{models[0]} and {models[-1]} are models, which run at the same time apart"
    for node in together:
        counts = facts[node].min_workers, facts[node].max_workers
        if counts != (1, 1) and unasked:
            return f"{node} has {_listed(*counts)} workers, and the others one"
    return ""


def _listed(minimum: int, maximum: int) -> str:
    return str(minimum) if minimum == maximum else f"{minimum} to {maximum}"
