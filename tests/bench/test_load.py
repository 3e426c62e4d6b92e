"""Load is measured against a real server on a socket, by wrk and by the client that stands in for it."""

import shutil
import socketserver
import threading
from http.server import BaseHTTPRequestHandler

import pytest

from bench import load
from bench.load import Measurement, Target, measure, summary

BODY = b"\0\1body" * 20_000  # more than one read


class Answers(BaseHTTPRequestHandler):
    """Answers POSTs with the `status` of the server, 200 only to the right request."""

    protocol_version = "HTTP/1.1"

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        right = body == BODY and self.headers["Content-Type"] == load.CONTENT_TYPE
        self.send_response(self.server.status if right else 400)
        self.send_header("Content-Length", "5")
        self.end_headers()
        self.wfile.write(b"seven")
        with self.server.counting:
            self.server.count += 1

    def log_message(self, *_):
        pass


class Server(socketserver.ThreadingTCPServer):
    daemon_threads = False
    request_queue_size = 64

    def __init__(self, status):
        super().__init__(("127.0.0.1", 0), Answers)
        self.status, self.count, self.counting = status, 0, threading.Lock()


@pytest.fixture
def serve(tmp_path):
    """Start a server that answers with a status; return it and a target on it."""
    servers = []

    def serve(status=200):
        server = Server(status)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        servers.append((server, thread))
        (tmp_path / "body").write_bytes(BODY)
        return server, Target(server.server_address[1], "/path", tmp_path / "body")

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture(params=["wrk", "bench.load"])
def tool(request, monkeypatch):
    if request.param == "bench.load":
        monkeypatch.setattr(shutil, "which", lambda name: None)
    elif not shutil.which("wrk"):
        pytest.skip("wrk is not installed")
    assert load.tool() == request.param
    return request.param


def test_answers_are_counted(serve, tool):
    server, target = serve()
    found = measure(target, connections=3, seconds=1)
    assert found.errors == 0
    assert 0 < found.requests <= server.count <= found.requests + 3  # wrk leaves its last ones unread
    assert 0 < found.p50_ms <= found.p99_ms < 1000
    assert found.rate == pytest.approx(found.requests / found.seconds)


def test_with_an_error_a_measurement_is_nothing(serve, tool):
    _, target = serve(status=503)
    found = measure(target, connections=2, seconds=1)
    assert found.errors > 0
    assert found.rate is None


def test_nobody_there_is_an_error(serve, monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    server, target = serve()
    server.server_close()
    assert measure(target, connections=2, seconds=0.1) == Measurement(0, pytest.approx(0, abs=5), 2, 0, 0)


def test_percentiles_are_of_the_latencies_in_order():
    found = summary([n / 1000 for n in range(100, 0, -1)], 2.0, 0)
    assert (found.p50_ms, found.p99_ms, found.rate) == (51, 100, 50)
