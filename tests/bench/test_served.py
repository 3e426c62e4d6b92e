"""Rates are of whole batches; what is packed is the network that is looped offline."""

import pytest
import torch

from bench import copies, served
from bench.served import Counters, Turn, counter, summary

METRICS = """\
# TYPE wfserve_node_batches_total counter
wfserve_node_batches_total{node="encoder",workflow="minilm"} 7.0
wfserve_node_batches_total{node="encoder",workflow="other"} 9.0
wfserve_input_copies_total{node="mean",workflow="tensor"} 3.0
"""


class Metrics:
    """A server that only answers for its metrics."""

    metrics = 8082

    def call(self, method, port, path):
        assert (method, port, path) == ("GET", 8082, "/metrics")
        return METRICS.encode()


def test_a_counter_is_read_by_its_labels():
    assert counter(METRICS, "wfserve_node_batches_total") == 7
    assert copies.counted(Metrics()) == {"wfserve_input_copies_total": 3}


def test_a_turn_is_what_happened_between_two_moments():
    turn = Counters(1.0, 100, 10, 5.0, 0.5).until(Counters(3.0, 260, 20, 7.0, 0.66))
    assert turn == pytest.approx((80, 16, 1.0, 0.001))


def test_the_ratio_is_the_median_of_the_rounds():
    turns = [Turn(rate, 16, 1.8, 1e-4) for rate in (90.0, 95.0, 10.0)]
    found = summary(list(zip(turns, (100.0, 100.0, 100.0), strict=True)), threads=2)
    assert found["served_vs_offline"] == pytest.approx(0.9)
    assert found["served_worker_busy"] == pytest.approx(0.9)


def test_what_is_packed_has_the_weights_of_what_is_looped(tmp_path):
    network = served.build(tmp_path)
    packed = torch.load(tmp_path / "encoder.pt", weights_only=True)
    assert all(torch.equal(packed[name], value) for name, value in network.state_dict().items())
    assert (tmp_path / "minilm.war").exists()
    assert (tmp_path / "body.bin").stat().st_size == served.TOKENS * 8
    assert served.rate_offline(network, torch.zeros(2, served.TOKENS, dtype=torch.int64), 0.01) > 0
