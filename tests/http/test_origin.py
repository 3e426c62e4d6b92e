"""A foreign page's request to a loopback management port is refused; everybody else's is not."""

import pytest

from wfserve.config import is_loopback
from wfserve.errors import ForbiddenError
from wfserve.http.origin import refuse_foreign


def headers(**given):
    return [(name.encode(), value.encode()) for name, value in given.items()]


@pytest.mark.parametrize(
    "given",
    [
        {},
        {"host": "127.0.0.1:8081"},
        {"host": "localhost:8081"},
        {"host": "[::1]:8081"},
        {"host": "localhost:8081", "origin": "http://localhost:8081"},
    ],
)
def test_clients_of_this_machine(given):
    refuse_foreign(headers(**given), "127.0.0.1")


@pytest.mark.parametrize(
    "given",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8081"},
        {"host": "[nonsense"},
        {"host": "192.168.0.7:8081"},
        {"host": "localhost:8081", "origin": "http://evil.example"},
        {"host": "localhost:8081", "origin": "null"},
        {"host": "localhost:8081", "origin": "http://localhost:3000"},
        {"origin": "http://evil.example"},
        {"host": "localhost:8081", "origin": "http://[x"},
        {"host": "localhost:8081", "origin": ""},
    ],
)
def test_foreign_pages(given):
    with pytest.raises(ForbiddenError) as refusal:
        refuse_foreign(headers(**given), "127.0.0.1")
    assert refusal.value.code == 403


def test_a_socket_beyond_loopback_is_not_managed():
    with pytest.raises(ForbiddenError):
        refuse_foreign(headers(host="127.0.0.1:8081"), "192.168.0.7")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.8.9.1", True), ("::1", True), ("localhost", True), ("localhosts", False), ("10.0.0.1", False)],
)
def test_names_of_loopback(host, expected):
    assert is_loopback(host) is expected
