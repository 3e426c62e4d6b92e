"""Graphs are valid or refused with TorchServe's words, and the same in every process."""

import pickle

import pytest

from wfserve.dag.graph import DagFault, Graph

DIAMOND = {"pre": ["a", "b"], "a": ["post"], "b": ["post"]}


@pytest.mark.parametrize(
    ("dag", "message", "nodes"),
    [
        ({"a": ["a"]}, "Self loop exception", ("a",)),
        ({"a": ["b", "b"]}, "loop exception", ("a",)),
        ({"a": ["b"], "b": ["a"]}, "DAG should have only one start node", ("a", "b")),
        ({"a": ["c"], "b": ["c"]}, "DAG should have only one start node", ("a", "b")),
        ({}, "DAG should have only one start node", ()),
        ({"s": ["a"], "a": ["b"], "b": ["a"]}, "Not a valid DAG", ("a", "b")),
    ],
)
def test_refuses_what_is_no_dag(dag, message, nodes):
    with pytest.raises(DagFault) as refusal:
        Graph.from_edges(dag)
    assert refusal.value.body() == {"code": 400, "type": "InvalidDAGException", "message": message}
    assert refusal.value.nodes == nodes


def test_one_node_alone_is_a_graph():
    graph = Graph.from_edges({"only": []})
    assert (graph.start, graph.leaves, graph.nodes) == ("only", ("only",), ("only",))


def test_diamond():
    graph = Graph.from_edges(DIAMOND)
    assert graph.nodes == ("pre", "a", "b", "post")
    assert graph.parents["post"] == ("a", "b")
    assert graph.leaves == ("post",)


def test_a_graph_is_the_same_in_another_process():
    graph = Graph.from_edges(DIAMOND)
    assert pickle.loads(pickle.dumps(graph)) == graph
