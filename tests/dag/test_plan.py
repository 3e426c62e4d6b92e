"""A chain is one stage where only its speed shows; each other edge says why it is not fused."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.dag.graph import Graph
from wfserve.dag.plan import NodeFacts, plan
from wfserve.errors import InvalidDagError

FUNCTION, MODEL = NodeFacts(is_function=True), NodeFacts(is_function=False)
MANY = NodeFacts(is_function=False, max_workers=2)
NONE = NodeFacts(is_function=True, min_workers=0)
OFF = NodeFacts(is_function=True, fuse=False)
OWN = NodeFacts(is_function=False, own_packages=True)
SHARED = NodeFacts(is_function=False, shared=True)
ASKED_FUNCTION = NodeFacts(is_function=True, fuse=True)
ASKED_MODEL = NodeFacts(is_function=False, max_workers=2, fuse=True)
CHAIN = {"a": ["b"], "b": ["c"]}


def stages(dag, **facts):
    graph = Graph.from_edges(dag)
    return plan(graph, {node: facts.get(node, FUNCTION) for node in graph.nodes}).stages


@pytest.mark.parametrize(
    ("facts", "expected"),
    [
        ({}, ["abc"]),
        ({"b": MODEL}, ["abc"]),
        ({"a": MODEL, "c": MODEL}, ["ab", "c"]),
        ({"a": MODEL, "b": MODEL, "c": MODEL}, ["a", "b", "c"]),
        ({"b": MANY}, ["a", "b", "c"]),
        ({"c": MANY}, ["ab", "c"]),
        ({"c": NONE}, ["ab", "c"]),
        ({"b": OFF}, ["a", "b", "c"]),
        ({"a": OFF}, ["a", "bc"]),
        ({"b": OWN}, ["a", "b", "c"]),
        ({"b": SHARED}, ["a", "b", "c"]),
        ({"a": ASKED_FUNCTION, "b": NodeFacts(False, fuse=True, shared=True)}, ["a", "b", "c"]),
        ({"a": ASKED_FUNCTION, "b": ASKED_MODEL, "c": ASKED_FUNCTION}, ["abc"]),
        ({"a": ASKED_FUNCTION, "b": ASKED_MODEL}, ["ab", "c"]),
        ({"a": ASKED_MODEL, "b": ASKED_MODEL, "c": ASKED_MODEL}, ["abc"]),
        ({"a": ASKED_MODEL, "b": MODEL}, ["a", "bc"]),
        ({"a": OWN, "b": ASKED_FUNCTION}, ["a", "bc"]),
    ],
)
def test_chains(facts, expected):
    assert stages(CHAIN, **facts) == tuple(map(tuple, expected))


@pytest.mark.parametrize(
    ("dag", "expected"),
    [
        ({"a": []}, ["a"]),
        ({"a": ["b", "c"]}, ["a", "b", "c"]),
        ({"a": ["b", "c"], "b": ["d"], "c": ["d"], "d": ["e"]}, ["a", "b", "c", "de"]),
        ({"a": ["b"], "b": ["c", "d"], "d": ["e"]}, ["ab", "c", "de"]),
        ({"a": ["b", "d"], "b": ["c"], "c": ["d"]}, ["a", "bc", "d"]),
    ],
)
def test_forks_and_joins(dag, expected):
    assert stages(dag) == tuple(map(tuple, expected))


@pytest.mark.parametrize(
    ("facts", "reason"),
    [
        ({}, "one input, one reader"),
        ({"b": OFF}, "b says fuse: off"),
        ({"a": MODEL, "b": MODEL}, "a and b are models, which run at the same time apart"),
        ({"b": MANY}, "b has 1 to 2 workers, and the others one"),
        ({"a": OWN}, "a has packages of its own, and so an interpreter of its own"),
        ({"b": SHARED}, "b says share: on, and other workflows do not have the rest of this one"),
    ],
)
def test_every_edge_has_its_reason(facts, reason):
    graph = Graph.from_edges({"a": ["b"]})
    (edge,) = plan(graph, {node: facts.get(node, FUNCTION) for node in graph.nodes}).edges
    assert edge.reason == reason


def test_forks_and_joins_have_their_reason():
    graph = Graph.from_edges({"a": ["b", "c"], "b": ["d"], "c": ["d"]})
    reasons = {(e.parent, e.child): e.reason for e in plan(graph, dict.fromkeys("abcd", FUNCTION)).edges}
    assert reasons == {
        ("a", "b"): "a has several children",
        ("a", "c"): "a has several children",
        ("b", "d"): "d has several parents",
        ("c", "d"): "d has several parents",
    }


@st.composite
def graphs(draw):
    names = [f"n{number}" for number in range(draw(st.integers(1, 8)))]
    dag = {
        node: draw(st.lists(st.sampled_from(names[position + 1 :]), unique=True))
        for position, node in enumerate(names[:-1])
    } or {"n0": []}
    try:
        return Graph.from_edges(dag)
    except InvalidDagError:
        return Graph.from_edges({a: [b] for a, b in pairwise(names)} or {"n0": []})


SAID = st.sampled_from([None, True, False])
FACTS = st.builds(
    NodeFacts, st.booleans(), st.integers(0, 1), st.integers(1, 3), SAID, st.booleans(), st.booleans()
)


@given(graphs(), st.data())
def test_stages_are_chains_and_hold_every_node_once(graph, data):
    facts = {node: data.draw(FACTS) for node in graph.nodes}
    made = plan(graph, facts)
    assert sorted(node for stage in made.stages for node in stage) == sorted(graph.nodes)
    inside = {pair for stage in made.stages for pair in pairwise(stage)}
    assert inside == {(edge.parent, edge.child) for edge in made.edges if edge.fused}
    assert made.hops_saved == len(inside)
    for parent, child in inside:
        assert graph.children[parent] == (child,)
        assert graph.parents[child] == (parent,)
    starts = [stage[0] for stage in made.stages]
    assert starts == [node for node in graph.nodes if node in starts]
