"""`X-Timeout-Ms` ends a request with 504 when it has passed, and leaves nothing; nonsense is a 400."""

import socket
import time

from tests.e2e.test_api import error_of


def test_a_deadline_that_passes(server):
    for _ in range(3):
        late = server.predict("obey", b"sleep 0.8", headers={"X-Timeout-Ms": "100"})
        assert late.status_code == 504
        assert error_of(late) == (
            "DeadlineExceededException",
            "The request could not be answered before its deadline (X-Timeout-Ms).",
        )
    assert server.predict("obey", b"next", headers={"X-Timeout-Ms": "60000"}).content == b"next"


def test_what_is_no_number(server):
    refused = server.predict("upper", b"x", headers={"X-Timeout-Ms": "soon"})
    assert error_of(refused)[0] == "BadRequestException"
    assert server.predict("upper", b"x", headers={"X-Priority": "9"}).content == b"X"


def test_a_deadline_passes_while_the_body_still_comes(server):
    host, _, port = server.url("inference", "").removeprefix("http://").rstrip("/").partition(":")
    with socket.create_connection((host, int(port)), timeout=10) as client:
        began = time.monotonic()
        client.sendall(
            b"POST /wfpredict/upper HTTP/1.1\r\nHost: localhost\r\nContent-Length: 101\r\n"
            b"X-Timeout-Ms: 300\r\n\r\nx"
        )
        assert client.recv(65536).startswith(b"HTTP/1.1 504")
        assert time.monotonic() - began < 3
