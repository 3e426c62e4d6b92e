"""`/metrics` of a registry in this process, as Prometheus reads it."""

import contextlib
import dataclasses

import pytest
import trio
from prometheus_client.parser import text_string_to_metric_families
from quart_trio import QuartTrio

from tests.archives import FUNCTIONS, chain, pack
from tests.pools import MIB, PATIENCE
from tests.registries import predict, registry
from tests.support import payload
from wfserve.config import Config
from wfserve.dag.walk import Request
from wfserve.http import metrics
from wfserve.measure.family import NO_LABELS, Family
from wfserve.workers import process

COUNTING = """
from ts.metrics.dimension import Dimension

def count(data, context):
    if data is None:
        return None
    context.metrics.add_counter("Seen", len(data))
    context.metrics.add_size("Bytes", 3, unit="B")
    return [row.get("body") for row in data]
"""


@pytest.fixture(autouse=True)
def _impatient(monkeypatch):
    monkeypatch.setattr(process, "STOP_GRACE", 0.2)


@pytest.fixture
def config(tmp_path):
    store = tmp_path / "store"
    store.mkdir()
    pack(store, "w", chain("count", "obey"), COUNTING + FUNCTIONS)
    return Config(
        workflow_store=store,
        model_store=store,
        state_dir=tmp_path / "state",
        arena_size=64 * MIB,
        unregister_timeout=PATIENCE,
    )


@contextlib.asynccontextmanager
async def scraping(config):
    """A registry and what reads its metrics: (registry, scrape), the samples by name and values of labels."""
    async with registry(config) as opened:
        app = QuartTrio("test", static_folder=None)
        app.register_blueprint(metrics.blueprint(opened))

        async def scrape(*names):
            response = await app.test_client().get("/metrics", query_string={"name[]": list(names)})
            assert response.headers["content-type"] == "text/plain; version=0.0.4; charset=utf-8"
            return [*text_string_to_metric_families(await response.get_data(as_text=True))]

        yield opened, scrape


def samples(families):
    return {
        (sample.name, *(v for k, v in sorted(sample.labels.items()) if k not in ("Hostname", "hostname"))): (
            sample.value
        )
        for family in families
        for sample in family.samples
        if "le" not in sample.labels
    }


async def test_our_own(config):
    async with scraping(config) as (opened, scrape):
        workflow = await opened.register("w.war")
        for _ in range(3):
            await predict(workflow, b"x", opened)
        with pytest.raises(Exception, match="obey"):
            await predict(workflow, b"raise", opened)
        found = samples(await scrape())
    assert found["wfserve_requests_total", "2xx", "w"] == 3
    assert found["wfserve_requests_total", "5xx", "w"] == 1
    assert found["wfserve_requests_total", "gone", "w"] == 0
    assert found["wfserve_request_seconds_count", "w"] == 4
    assert found["wfserve_node_attempts_total", "obey", "w"] == 5
    assert found["wfserve_node_retries_total", "obey", "w"] == 1
    assert found["wfserve_node_retries_total", "count", "w"] == 0
    assert found["wfserve_node_queue_size", "count", "w"] == 100
    assert found["wfserve_node_queued", "count", "w"] == 0
    assert found["wfserve_node_queue_seconds_count", "count", "w"] == 4
    assert found["wfserve_node_batch_size_sum", "count", "w"] == 4
    assert found["wfserve_input_copies_total", "count", "w"] == 4
    assert 0 < found["wfserve_node_run_seconds_sum", "count", "w"] < PATIENCE


async def test_torchserves(config):
    async with scraping(config) as (opened, scrape):
        workflow = await opened.register("w.war")
        for _ in range(2):
            await predict(workflow, b"x", opened)
        opened.responses.count(404)
        families = await scrape()
    found = samples(families)
    assert found["ts_inference_requests_total", "w__count", "default"] == 2
    assert found["ts_inference_latency_microseconds_total", "w__count", "default"] > 0
    queued = found["ts_queue_latency_microseconds_total", "w__count", "default"]
    assert 0 < queued < found["ts_inference_latency_microseconds_total", "w__count", "default"]
    assert found["Requests4XX_total", "Host"] == 1
    assert found["PredictionTime", "Model", "w__obey"] > 0
    assert found["QueueTime", "Host"] > 0
    assert found["WorkerThreadTime", "Host"] > 0
    assert found["WorkerLoadTime", "Host", "W-0-w__count_1.0"] > 0
    for name in ("CPUUtilization", "MemoryUsed", "MemoryAvailable", "DiskUsage", "DiskAvailable"):
        assert found[name, "Host"] >= 0
    assert found["MemoryUtilization", "Host"] < 100
    assert found["Seen_total", "Model", "w__count"] == 2
    assert found["Bytes", "Model", "w__count"] == 3
    kinds = {family.name: family.type for family in families}
    assert kinds["Requests2XX"] == kinds["ts_queue_latency_microseconds"] == "counter"
    assert kinds["QueueTime"] == kinds["GPUUtilization"] == "gauge"


async def test_a_request_that_was_given_up_is_counted_as_that(config):
    async with scraping(config) as (opened, scrape):
        workflow = await opened.register("w.war")
        request = Request(payload(opened._transport, b"[]"), payload(opened._transport, b"x"))
        assert await workflow.predict(request, watch=lambda give_up: give_up()) is None
        found = samples(await scrape())
        assert found["wfserve_requests_total", "gone", "w"] == 1
        assert found["wfserve_requests_total", "5xx", "w"] == 0


async def test_what_is_unregistered_is_gone(config):
    async with scraping(config) as (opened, scrape):
        await predict(await opened.register("w.war"), b"x", opened)
        assert any("w__count" in key for key in samples(await scrape()))
        await opened.unregister("w")
        assert not [key for key in samples(await scrape()) if {"w", "w__count"}.intersection(key)]


async def test_names_select(config):
    async with scraping(config) as (opened, scrape):
        await predict(await opened.register("w.war"), b"x", opened)
        assert {f.name for f in await scrape("wfserve_arena_slots", "MemoryUsed", "nothing")} == {
            "wfserve_arena_slots",
            "MemoryUsed",
        }
        assert {key[0] for key in samples(await scrape("wfserve_node_run_seconds_count"))} == {
            "wfserve_node_run_seconds_count"
        }
        assert await scrape("nothing") == []


async def test_system_metrics_can_be_left_out(config):
    async with scraping(dataclasses.replace(config, disable_system_metrics=True)) as (_, scrape):
        found = samples(await scrape())
        assert ("Requests2XX_total", "Host") in found
        assert not [key for key in found if key[0].startswith(("CPU", "Memory", "Disk", "GPU"))]


async def test_a_machine_that_cannot_be_read_is_left_out(config, monkeypatch, caplog):
    def hidden():
        raise PermissionError("/proc/meminfo")

    monkeypatch.setattr("wfserve.measure.host.memory", hidden)
    async with scraping(config) as (_, scrape):
        for _ in range(2):
            found = samples(await scrape())
            assert ("Requests2XX_total", "Host") in found
            assert ("MemoryUsed", "Host") not in found
    assert caplog.text.count("cannot be read") == 1


async def test_definitions_are_honoured(config, tmp_path):
    path = tmp_path / "metrics.yaml"
    path.write_text(
        "ts_metrics:\n"
        "  counter: [{name: ts_inference_requests_total, unit: Count, dimensions: [m, v, Hostname]}]\n"
        "model_metrics:\n"
        "  gauge: [{name: Seen, unit: Count, dimensions: [Who, Level]}]\n"
    )
    async with scraping(dataclasses.replace(config, metrics_config=path)) as (opened, scrape):
        await predict(await opened.register("w.war"), b"x", opened)
        families = {family.name: family for family in await scrape()}
    assert families["ts_inference_requests"].samples[0].labels.keys() == {"m", "v", "Hostname"}
    assert families["Seen"].type == "gauge"
    assert families["Seen"].samples[0].labels.keys() == {"Who", "Level", "Hostname"}
    assert "Bytes" in families
    assert "QueueTime" not in families
    assert "PredictionTime" not in families
    assert "wfserve_node_queued" in families


async def test_the_log_instead(config, monkeypatch, caplog):
    monkeypatch.setattr("wfserve.registry.measures.LOG_INTERVAL", 0.05)
    caplog.set_level("INFO", "wfserve.metrics")
    async with scraping(dataclasses.replace(config, metrics_mode="log")) as (opened, scrape):
        await predict(await opened.register("w.war"), b"x", opened)
        with trio.fail_after(PATIENCE):
            while "Seen.Count:1.0|#ModelName:w__count,Level:Model|#hostname:" not in caplog.text:
                await trio.lowlevel.checkpoint()
        assert {family.name.partition("_")[0] for family in await scrape()} == {"wfserve"}
    assert caplog.text.count("ts_inference_requests_total.Count:1.0|#model_name:w__count") == 1


async def test_a_long_answer_gives_others_a_turn():
    family = Family("m", "gauge", "M", [(NO_LABELS, float(n)) for n in range(10 * metrics.LINES)])
    turns = 0

    async def other():
        nonlocal turns
        while True:
            turns += 1
            await trio.lowlevel.checkpoint()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(other)
        assert (await metrics._written([family], ())).count(b"\n") == 10 * metrics.LINES + 2
        nursery.cancel_scope.cancel()
    assert turns >= 9
