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
        {"host": ""},
        {"host": "localhost."},
        {"host": "localhost.:8081", "origin": "http://localhost.:8081"},
        {"host": "localhost:8081", "origin": "http://localhost:8081"},
    ],
)
def test_clients_of_this_machine(given):
    refuse_foreign(headers(**given))


@pytest.mark.parametrize(
    "given",
    [
        {"host": "evil.example"},
        {"host": "127.0.0.1.evil.example:8081"},
        {"host": "[nonsense"},
        {"host": "localhost.."},
        {"host": ".", "origin": "http://."},
        {"host": "", "origin": "null"},
        {"origin": "null"},
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
        refuse_foreign(headers(**given))
    assert refusal.value.code == 403


@pytest.mark.parametrize(
    ("name", "own", "foreign"),
    [("host", "localhost:8081", "evil.example"), ("origin", "http://localhost:8081", "http://evil.example")],
)
def test_a_header_that_is_repeated(name, own, foreign):
    host = headers(host="localhost:8081")
    refuse_foreign([*host, *headers(**{name: own}), *headers(**{name: own})])
    for values in ((own, foreign), (foreign, own)):
        with pytest.raises(ForbiddenError):
            refuse_foreign([*host, *(header for value in values for header in headers(**{name: value}))])


def test_an_origin_is_of_every_host():
    hosts = [*headers(host="localhost:8081"), *headers(host="localhost:3000")]
    with pytest.raises(ForbiddenError):
        refuse_foreign([*hosts, *headers(origin="http://localhost:3000")])


def test_pages_of_the_origin_that_is_named_may_come():
    page = headers(host="localhost:8081", origin="https://a.example")
    refuse_foreign(page, "https://a.example")
    for allowed in (None, "*", "https://b.example", "a.example"):
        with pytest.raises(ForbiddenError):
            refuse_foreign(page, allowed)


def test_a_named_origin_does_not_excuse_a_foreign_host():
    with pytest.raises(ForbiddenError):
        refuse_foreign(headers(host="rebound.example", origin="https://a.example"), "https://a.example")


@pytest.mark.parametrize(
    ("host", "expected"),
    [("127.8.9.1", True), ("::1", True), ("localhost", True), ("localhosts", False), ("10.0.0.1", False)],
)
def test_names_of_loopback(host, expected):
    assert is_loopback(host) is expected
