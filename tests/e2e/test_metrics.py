"""`/metrics` as a Prometheus that scraped TorchServe finds it, on our server and on hypercorn."""

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.archives import chain, pack, pack_handler
from tests.servers import Server

HANDLER = """
from ts.torch_handler.base_handler import BaseHandler

class Handler(BaseHandler):
    def initialize(self, context):
        self.context = context

    def preprocess(self, data):
        return [bytes(row.get("data") or row.get("body")) for row in data]

    def inference(self, data):
        self.context.metrics.add_counter("LinesSeen", 2)
        return data

    def postprocess(self, data):
        return data
"""
GREEDY = """
def greedy(data, context):
    if data is None:
        return None
    for number in range(5000):
        context.metrics.add_counter(f"Name{number} $", 1)
        context.metrics.add_counter("Labelled", 1, dimensions=[])
    return ["done"]
"""


def scraped(server, **params):
    response = server.call("GET", "/metrics", api="metrics", params=params)
    assert response.status_code == 200
    assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
    return [*text_string_to_metric_families(response.text)]


def values(server, name):
    """The values of a metric, by those of its labels but the host's."""
    return {
        tuple(v for k, v in sorted(sample.labels.items()) if k.lower() != "hostname"): sample.value
        for family in scraped(server, **{"name[]": name})
        for sample in family.samples
    }


def test_torchserves_metrics(server, store):
    pack_handler(store, "lines", HANDLER)
    pack(store, "lined", "models:\n  lines:\n    url: lines.mar\ndag:\n  echo: [lines]\n")
    server.register("lined.war")
    try:
        for _ in range(3):
            assert server.predict("lined", b"x").text == "x"
        assert values(server, "ts_inference_requests_total")["lined__lines", "default"] == 3
        assert values(server, "ts_inference_latency_microseconds")["lined__lines", "default"] > 0
        assert values(server, "HandlerTime").keys() == {("Model", "lined__lines")}
        assert values(server, "PredictionTime")["Model", "lined__echo"] > 0
        assert values(server, "LinesSeen") == {("Model", "lined__lines"): 6}
        text = server.call("GET", "/metrics", api="metrics").text
        assert "# TYPE ts_inference_latency_microseconds counter\nts_inference_latency_microseconds{" in text
        assert '\nRequests2XX{Hostname="' in text
    finally:
        server.call("DELETE", "/workflows/lined")
    assert values(server, "LinesSeen") == {}
    assert ("lined__lines", "default") not in values(server, "ts_inference_requests_total")


def test_every_response_is_counted(server):
    def count(name):
        return values(server, name).get(("Host",), 0)

    good, bad = count("Requests2XX"), count("Requests4XX")
    server.predict("upper", b"x")  # and two scrapes
    assert count("Requests2XX") == good + 3
    server.predict("absent", b"x")
    server.call("GET", "/absent", api="inference")
    server.call("DELETE", "/workflows/absent")
    assert count("Requests4XX") == bad + 3
    failed = count("Requests5XX")
    server.predict("obey", b"raise")
    assert count("Requests5XX") == failed + 1


def test_a_greedy_handler_costs_no_more_than_its_bounds(server, store):
    pack(store, "greedy", chain("greedy"), GREEDY)
    server.register("greedy.war")
    try:
        assert server.predict("greedy").text == "done"
        names = {family.name for family in scraped(server)}
        assert 0 < sum(name.startswith("Name") for name in names) <= 1000
        assert "wfserve_node_queued" in names
    finally:
        server.call("DELETE", "/workflows/greedy")


@pytest.mark.parametrize("kind", ["serve", "hypercorn"])
def test_without_the_metrics_api(kind, tmp_path, store):
    with Server(tmp_path, store, kind, metrics_mode="log", enable_metrics_api="false") as server:
        for api in ("inference", "management", "metrics")[: 2 + (kind == "hypercorn")]:  # which binds anyway
            assert server.call("GET", "/metrics", api=api).status_code == 404
