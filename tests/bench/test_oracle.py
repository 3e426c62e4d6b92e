"""The oracle is as good as the best of all batchings, tried one by one, and no policy beats it."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bench import oracle
from bench.oracle import Server, compare, learned, oracle_p99, p99, simulate

ARRIVALS = st.lists(st.floats(0, 5), min_size=1, max_size=7).map(lambda gaps: np.cumsum(np.array(gaps)))
SERVERS = st.builds(Server, st.floats(0.1, 2), st.floats(0.1, 2), st.integers(1, 4))


@pytest.fixture
def _long_tail(monkeypatch):
    monkeypatch.setattr(oracle, "TAIL", 0.3)  # one or two of a handful


def cuts(count, limit):
    """All ways to cut `count` items into batches."""
    if not count:
        yield ()
    for size in range(1, min(count, limit) + 1):
        for rest in cuts(count - size, limit):
            yield (size, *rest)


def served(server, arrivals, sizes):
    """The latencies of batches of these sizes, each begun as soon as can be."""
    free, latencies = 0.0, []
    for first, last in pairwise(np.cumsum([0, *sizes])):
        free = max(free, arrivals[last - 1]) + server.seconds(last - first)
        latencies += list(free - arrivals[first:last])
    return np.array(latencies)


@pytest.mark.usefixtures("_long_tail")
@given(SERVERS, ARRIVALS)
def test_the_oracle_is_as_good_as_the_best_of_all_batchings(server, arrivals):
    best = min(p99(served(server, arrivals, sizes)) for sizes in cuts(len(arrivals), server.limit))
    worst = p99(served(server, arrivals, [1] * len(arrivals)))
    assert oracle_p99(server, arrivals, worst) == pytest.approx(best, rel=2 * oracle.PRECISION)


@given(SERVERS, ARRIVALS)
def test_our_policy_serves_every_item_and_never_beats_the_oracle(server, arrivals):
    latencies = simulate(server, arrivals, delay=1.0)
    assert (latencies >= server.seconds(1) * (1 - 1e-9)).all()
    found = p99(latencies)
    assert oracle_p99(server, arrivals, found) <= found


def test_p99_is_exceeded_by_one_in_a_hundred():
    assert p99(np.arange(200.0)[::-1]) == 197


def test_what_a_stage_has_learned_of_a_server_is_true():
    cost = learned(Server(0.25, 0.5, 8))
    assert cost.known
    assert [cost.of(1), cost.of(8)] == pytest.approx([0.75, 4.25])


def test_a_server_is_learned_from_measured_batches():
    server = Server.from_batches({1: 0.75, 2: 1.25, 4: 2.25}, limit=4)
    assert server == pytest.approx((0.25, 0.5, 4))


def test_load_is_of_what_full_batches_could_serve():
    server = Server(1.0, 0.5, 4)  # 4 items in 3 seconds
    arrivals = server.arrivals(0.5, 10_000, seed=0)
    assert len(arrivals) / arrivals[-1] == pytest.approx(0.5 * 4 / 3, rel=0.05)


def test_a_comparison_is_of_medians(monkeypatch):
    monkeypatch.setattr(oracle, "ITEMS", 200)
    found = compare(Server(0.005, 0.001, 8), 0.7)
    assert 0 < found.oracle <= found.ours
    assert found.ratio >= 1
