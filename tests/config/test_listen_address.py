"""An address is understood as TorchServe does, and everything else is a line that names its key."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.config.address import Address, is_loopback, parse_address
from wfserve.errors import ConfigError

KEYS = ("inference_address", "management_address", "metrics_address")


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("http://127.0.0.1:8080", Address("127.0.0.1", 8080)),
        ("HTTP://Host-1.example:1", Address("Host-1.example", 1)),
        ("http://0.0.0.0:65535/", Address("0.0.0.0", 65535)),
        (" https://some_host:8443 ", Address("some_host", 8443, "https")),
        ("http://[::1]:9002/", Address("::1", 9002)),
        ("http://[0::A]:1", Address("::a", 1)),
        ("unix:/tmp/a b.sock", Address("", 0, "unix", "/tmp/a b.sock")),
        ("UNIX:/" + "x" * 106, Address("", 0, "unix", "/" + "x" * 106)),
    ],
)
def test_what_is_understood(text, address):
    assert parse_address("inference_address", text) == address


@pytest.mark.parametrize(("scheme", "ports"), [("http", (80, 8081, 8082)), ("https", (443, 8444, 8445))])
def test_the_port_of_an_api_that_names_none(scheme, ports):
    assert tuple(parse_address(key, f"{scheme}://h").port for key in KEYS) == ports


@pytest.mark.parametrize(
    "text",
    [
        *(
            "",
            "8080",
            "localhost:8080",
            "ftp://a:1",
            "http:/a:1",
            "http://a:1/x",
            "http://a:1?x",
            "http://a b",
        ),
        *(f"http://a:{port}" for port in ("0", "65536", "99999", "x", "-1", "٣")),
        *(f"http://{host}:1" for host in ("", "a b", "a..b", ".", "a" * 64, "[::1", "[:::]", "::1", "é")),
        *("unix:", "unix:relative", "unix:/a\0b", "unix:/" + "x" * 107, "unix:/" + "é" * 54),
    ],
)
def test_what_is_not(text):
    with pytest.raises(ConfigError) as caught:
        parse_address("metrics_address", text)
    assert caught.value.message.startswith("metrics_address: ")


@pytest.mark.parametrize(
    ("address", "url", "bind"),
    [
        (Address("127.0.0.1", 80), "http://127.0.0.1:80", "127.0.0.1:80"),
        (Address("::1", 8080, "https"), "https://[::1]:8080", "[::1]:8080"),
        (Address("", 0, "unix", "/run/w"), "unix:/run/w", "unix:/run/w"),
    ],
)
def test_an_address_as_url_and_bind(address, url, bind):
    assert (str(address), address.bind) == (url, bind)


HOSTS = st.one_of(st.ip_addresses().map(str), st.sampled_from(["localhost", "a.example", "h_1"]))
ADDRESSES = st.one_of(
    st.builds(Address, HOSTS, st.integers(1, 65535), st.sampled_from(["http", "https"]), st.just("")),
    st.from_regex(r"/[^\0\ud800-\udfff\s][a-z]{0,50}", fullmatch=True).map(
        lambda path: Address("", 0, "unix", path)
    ),
)


@given(ADDRESSES, st.sampled_from(KEYS))
def test_what_is_printed_is_understood(address, key):
    assert parse_address(key, str(address)) == address


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        *((host, True) for host in ("localhost", "a.localhost", "127.0.0.1", "127.9.9.9", "::1")),
        *((host, False) for host in ("", "0.0.0.0", "::", "10.0.0.1", "localhost.example", "128.0.0.1")),
    ],
)
def test_what_is_loopback(host, expected):
    assert is_loopback(host) is expected
    assert Address(host, 80).is_loopback is expected


def test_a_unix_socket_is_of_this_machine():
    assert Address("", 0, "unix", "/run/w").is_loopback
