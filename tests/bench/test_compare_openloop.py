"""Latencies of an open loop count from when a request was due: a slow server cannot hide them."""

import asyncio
import socketserver
import threading
import time

import pytest

from bench.comparison import openloop
from bench.load import Target

ANSWER = b"HTTP/1.1 %d Whatever\r\ncontent-length: 2\r\n\r\nok"
WORK = 0.02  # seconds a request takes the server, which does one at a time


class Answers(socketserver.BaseRequestHandler):
    def handle(self):
        while b"\r\n\r\nbody" in (self.request.recv(4096)):
            with self.server.one_at_a_time:
                time.sleep(self.server.work)
            self.request.sendall(ANSWER % self.server.status)


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = True
    block_on_close = False
    request_queue_size = openloop.CONNECTIONS
    work, status = 0.0, 200

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Answers)
        self.one_at_a_time = threading.Lock()


@pytest.fixture
def server():
    with Server() as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield server
        server.shutdown()
        thread.join()


@pytest.fixture
def target(server, tmp_path):
    (tmp_path / "body").write_bytes(b"body")
    return Target(server.server_address[1], "/path", tmp_path / "body")


def test_every_request_that_was_due_is_answered(target):
    found = openloop.measure(target, 100, 0.5)
    assert (found.measured.requests, found.measured.errors) == (len(list(openloop.arrivals(100, 0.5))), 0)
    assert 0 < found.measured.p50_ms <= found.measured.p99_ms


def run(*arguments):
    with asyncio.Runner(loop_factory=openloop.precise_loop) as runner:
        return runner.run(openloop.run(*arguments))


def test_waiting_for_a_connection_counts(server, target, monkeypatch):
    monkeypatch.setattr(openloop, "CONNECTIONS", 1)
    server.work = WORK
    due = list(openloop.arrivals(2 / WORK, 0.5))
    found = run(target, 2 / WORK, 0.5)
    assert found.measured.errors == 0
    assert found.measured.p99_ms / 1e3 >= len(due) * WORK - due[-1] - 2 * WORK  # the last one waits for all


def test_being_late_counts_and_is_said(target, monkeypatch):
    monkeypatch.setattr(openloop, "arrivals", lambda rate, seconds: [-1.0] * 20)
    found = run(target, 1, 1)
    assert found.measured.requests == 20
    assert found.measured.p50_ms >= 1000
    assert found.late_ms >= 1000


def test_answers_with_an_error_status_are_errors(server, target):
    server.status = 503
    found = openloop.measure(target, 100, 0.3)
    assert found.measured.errors > 0
    assert found.measured.rate is None


def test_arrivals_are_those_of_a_poisson_process():
    moments = list(openloop.arrivals(1000, 10))
    gaps = [late - early for early, late in zip([0.0, *moments], moments, strict=False)]
    assert moments == sorted(moments)
    assert len(moments) == pytest.approx(10_000, rel=0.05)
    assert sum(gap > 1e-3 for gap in gaps) / len(gaps) == pytest.approx(0.368, abs=0.02)  # 1/e
    assert moments == list(openloop.arrivals(1000, 10))
