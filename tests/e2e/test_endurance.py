"""The example under load for a minute, a worker killed every three seconds: nobody notices."""

import os
import random
import signal
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest

from tests.e2e.test_faults import worker_pids
from tests.servers import Server

ROOT = Path(__file__).parents[2]
CLIENTS, KILLS, INTERVAL = 16, 20, 3.0


@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("kind", ["serve", "hypercorn"])
def test_twenty_kills_in_a_minute_cost_the_example_no_request(tmp_path, kind):
    picture = (ROOT / "examples/digits/digit-7.png").read_bytes()
    with Server(tmp_path, ROOT / "workflow_store", kind) as server:
        server.register("digits.war")
        stop, answers = threading.Event(), []

        def client():
            with httpx.Client(timeout=30, trust_env=False) as session:
                while not stop.is_set():
                    response = session.put(server.url("inference", "/wfpredict/digits"), content=picture)
                    answers.append(
                        (response.status_code, response.status_code == 200 and response.json()["digit"])
                    )

        with ThreadPoolExecutor(CLIENTS) as pool:
            clients = [pool.submit(client) for _ in range(CLIENTS)]
            try:
                for _ in range(KILLS):
                    time.sleep(INTERVAL)  # the pace of the test, nothing is waited for
                    os.kill(random.choice(sorted(worker_pids(server))), signal.SIGKILL)
            finally:
                stop.set()
        for each in clients:
            each.result()
        nodes = ("prepare", "cnn", "mlp", "vote")
        deaths = sum(server.metric("wfserve_worker_deaths_total", workflow="digits", node=n) for n in nodes)
        print(f"\n{kind}: {len(answers)} requests, {deaths:.0f} deaths")
        assert [answer for answer in answers if answer != (200, 7)] == []
        assert len(answers) > 1000
        assert deaths == KILLS
        assert server.call("DELETE", "/workflows/digits").status_code == 200
        assert server.metric("wfserve_arena_slots") == 0
