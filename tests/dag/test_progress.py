"""Progress visits every node once, in a valid order."""

from hypothesis import given
from hypothesis import strategies as st

from wfserve.dag.graph import Graph
from wfserve.dag.progress import Progress

DIAMOND = {"pre": ["a", "b"], "a": ["post"], "b": ["post"]}


def test_progress_of_a_diamond():
    progress = Progress(Graph.from_edges(DIAMOND))
    assert progress.complete("pre") == (("a", "b"), ())
    assert progress.complete("b") == ((), ())
    assert progress.complete("a") == (("post",), ("pre",))
    assert progress.complete("post") == ((), ("a", "b"))
    assert progress.pending == 0


@st.composite
def dags(draw):
    """Any DAG whose only root is node 0."""
    size = draw(st.integers(1, 12))
    edges = {str(i): [] for i in range(size)}
    for node in range(1, size):
        for parent in draw(st.sets(st.integers(0, node - 1), min_size=1)):
            edges[str(parent)].append(str(node))
    return edges


def test_a_chain_completes_as_its_nodes_do_one_after_the_other():
    graph = Graph.from_edges({"a": ["b", "x"], "b": ["c"], "c": ["d"], "x": ["d"]})
    progress = Progress(graph)
    assert progress.complete("a") == (("b", "x"), ())
    assert progress.complete_chain(("b", "c")) == ((), ())
    assert progress.complete("x") == (("d",), ("a",))
    assert progress.complete("d") == ((), ("x", "c"))
    assert progress.pending == 0
    whole = Progress(Graph.from_edges({"a": ["b"], "b": ["c"]}))
    assert whole.complete_chain(("a", "b", "c")) == ((), ())
    assert whole.pending == 0


@given(dags(), st.randoms())
def test_progress_visits_every_node_once_after_its_parents(dag, random):
    graph = Graph.from_edges(dag)
    progress = Progress(graph)
    ready, done, spent = [graph.start], [], []
    while ready:
        node = ready.pop(random.randrange(len(ready)))
        assert set(graph.parents[node]) <= set(done)
        step = progress.complete(node)
        done.append(node)
        ready += step.ready
        spent += step.spent
    assert sorted(done) == sorted(graph.nodes)
    assert progress.pending == 0
    assert sorted(spent) == sorted(set(graph.nodes) - set(graph.leaves))
