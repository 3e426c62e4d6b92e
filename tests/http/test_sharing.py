"""Sockets of one address share its connections, within one server."""

import re
import socket

import pytest

from tests.servers import free_ports
from wfserve.config import Address
from wfserve.errors import ConfigError
from wfserve.http.listen import bound
from wfserve.http.sharing import shared


@pytest.fixture(params=["127.0.0.1", "0.0.0.0"])
def address(request):
    return Address(request.param, *free_ports(1))


def refused(address):
    return pytest.raises(ConfigError, match=re.escape(f"cannot listen on {address}: "))


def connect(address):
    with socket.create_connection(("127.0.0.1", address.port), 5):
        pass


def test_connections_are_shared(address):
    with shared(address) as place, place.listener() as one, place.listener() as other:
        for listener in (one, other):
            listener.listen()
            listener.setblocking(False)
        for _ in range(64):
            connect(address)
        assert accepted(one) > 0
        assert accepted(other) > 0


def accepted(listener):
    count = 0
    while True:
        try:
            listener.accept()[0].close()
        except BlockingIOError:
            return count
        count += 1


def test_one_that_closes_leaves_the_others_all(address):
    with shared(address) as place, place.listener() as one:
        one.listen()
        with place.listener() as other:
            other.listen()
        for _ in range(20):
            connect(address)


@pytest.mark.parametrize("way", [shared, bound])
def test_a_second_server_is_refused(address, way):
    """Whether it would share or not."""
    with shared(address) as place, place.listener() as listener:
        listener.listen()
        with refused(address), way(address):
            pass


def test_a_second_server_is_refused_before_any_front_end_listens(address):
    with shared(address), refused(address), shared(address):
        pass


def test_a_server_that_shares_with_nobody_is_left_alone(address):
    with bound(address) as listener:
        listener.listen()
        with refused(address), shared(address):
            pass


def test_whoever_comes_between_looking_and_binding_is_refused(address, monkeypatch):
    """Both would find nobody there."""
    monkeypatch.setattr("wfserve.http.sharing.bound", lambda _: socket.socket())
    with shared(address), refused(address), shared(address):
        pass


def test_an_address_can_be_had_again(address):
    for _ in range(2):
        with shared(address) as place:
            place.listener().close()
