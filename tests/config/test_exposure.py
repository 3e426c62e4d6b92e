"""What is reachable from elsewhere asks for tokens, and each address exposes only what belongs there."""

import pytest

from wfserve.config import load
from wfserve.errors import ConfigError

LOCAL = ("http://127.0.0.1:8081", "http://localhost:1", "https://[::1]", "unix:/run/w")
BEYOND = ("http://0.0.0.0:8081", "http://[::]:1", "https://host-1.example", "http://10.0.0.1:1")
KEYS = ("inference_address", "management_address", "metrics_address")
OFF = {"disable_token_authorization": "true"}
ON = {"disable_token_authorization": "false"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def config(**flags):
    return load(flags=flags, environ={})


@pytest.mark.parametrize("address", LOCAL)
def test_tokens_are_off_while_every_address_is_local(address):
    given = dict.fromkeys(KEYS, address)
    assert not config(**given).tokens
    assert not config(**given, **OFF).tokens
    assert config(**given, **ON).tokens


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("address", BEYOND)
def test_one_address_beyond_loopback_turns_them_on(key, address):
    given = {key: address}
    assert config(**given).tokens
    assert config(**given, insecure_management="true").tokens
    with pytest.raises(ConfigError, match=r"^disable_token_authorization: .* may run code here"):
        config(**given, **OFF)
    assert not config(**given, **OFF, insecure_management="true").tokens


def test_an_api_that_is_off_has_no_address():
    given = {"metrics_address": "http://0.0.0.0:8080", "enable_metrics_api": "false"}
    assert not config(**given).tokens
    assert config(**given).apis == ("inference", "management")
    assert config(**given).exposed(("127.0.0.1", 8080)) == {"inference"}


def test_a_port_speaks_plain_http_or_tls():
    given = {"inference_address": "http://127.0.0.1:8443", "management_address": "https://127.0.0.1:8443"}
    with pytest.raises(ConfigError, match=r"^management_address: 127.0.0.1:8443 cannot be both"):
        config(**given)


@pytest.mark.parametrize(
    ("server", "apis"),
    [
        (("127.0.0.1", 8080), {"inference"}),
        (("127.0.0.1", 8081), {"management", "metrics"}),
        (("10.0.0.1", 8081), {"management", "metrics"}),  # a launcher's own idea of where to listen
        (("127.0.0.1", 8082), set()),
        (("/run/w", None), set()),
        (("", None), set()),
        (None, set()),
    ],
)
def test_apis_by_port(server, apis):
    assert config(metrics_address="http://127.0.0.1:8081").exposed(server) == apis


@pytest.mark.parametrize(
    ("inference", "management", "host", "apis"),
    [
        ("10.0.0.1", "127.0.0.1", "10.0.0.1", {"inference"}),
        ("10.0.0.1", "127.0.0.1", "127.0.0.1", {"management"}),
        ("a.example", "localhost", "10.0.0.1", {"inference"}),
        ("a.example", "localhost", "127.0.0.1", {"management"}),
        ("a.example", "localhost", "::1", {"management"}),
        ("[::a]", "[::B]", "::b", {"management"}),
        ("0.0.0.0", "127.0.0.1", "127.0.0.1", {"inference", "management"}),
        ("0.0.0.0", "127.0.0.1", "10.0.0.1", {"inference"}),
    ],
)
def test_one_port_of_several_hosts(inference, management, host, apis):
    found = config(inference_address=f"http://{inference}:99", management_address=f"http://{management}:99")
    assert found.exposed((host, 99)) == apis


def test_unix_sockets():
    given = {"inference_address": "unix:/run/i", "metrics_address": "unix:/run/i"}
    assert config(**given).exposed(("/run/i", None)) == {"inference", "metrics"}
    assert config(**given).exposed(None) == {"inference", "metrics"}
    both = config(**given, management_address="unix:/run/m")
    assert both.exposed(("/run/m", None)) == {"management"}
    assert both.exposed(None) == frozenset()
