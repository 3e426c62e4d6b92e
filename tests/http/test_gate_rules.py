"""Who may ask for what on which socket: every rule of the gate, and what it is for."""

import pytest

from wfserve.config import Address, Config
from wfserve.errors import ForbiddenError, NotFoundError
from wfserve.http.auth import InvalidKeyError, Tokens
from wfserve.http.gate import Gate, HttpsOnlyError

LOOPBACK = ("127.0.0.1", 8081)
BEYOND = ("192.168.0.7", 8081)
UNIX = ("/run/wfserve.sock", None)
FOREIGN = [(b"host", b"localhost:8081"), (b"origin", b"https://evil.example")]
AREAS = ("inference", "management", "token", "open")


def gate(tmp_path, server, scheme="http", **settings):
    return Gate(Config(**settings), Tokens(tmp_path / "unwritten.json", 60.0), server, scheme)


def outcome(gate, area, headers=()):
    try:
        gate.admit(area, list(headers))
    except (ForbiddenError, InvalidKeyError, NotFoundError) as refusal:
        return type(refusal)
    return None


def outcomes(gate, headers=()):
    return [outcome(gate, area, headers) for area in AREAS]


@pytest.mark.parametrize("server", [LOOPBACK, ("::1", 8081), UNIX, None])
def test_this_machine_needs_no_token(tmp_path, server):
    assert outcomes(gate(tmp_path, server)) == [None, None, NotFoundError, None]


@pytest.mark.parametrize("server", [LOOPBACK, ("::1", 8081), UNIX, None])
@pytest.mark.parametrize(
    "settings", [{"disable_token_authorization": False}, {"inference_address": Address("0.0.0.0", 8080)}]
)
def test_unless_tokens_are_on_by_configuration(tmp_path, server, settings):
    wanted = [InvalidKeyError, InvalidKeyError, InvalidKeyError, None]
    assert outcomes(gate(tmp_path, server, **settings)) == wanted


@pytest.mark.parametrize(
    "settings", [{}, {"disable_token_authorization": True}, {"insecure_management": True}]
)
def test_a_socket_beyond_loopback_needs_one_wherever_the_configuration_listens(tmp_path, settings):
    wanted = [InvalidKeyError, InvalidKeyError, InvalidKeyError, None]
    assert outcomes(gate(tmp_path, BEYOND, **settings)) == wanted


def test_unless_both_switches_give_it_up(tmp_path):
    given_up = {"disable_token_authorization": True, "insecure_management": True}
    assert outcomes(gate(tmp_path, BEYOND, **given_up)) == [None, None, NotFoundError, None]


@pytest.mark.parametrize("server", [LOOPBACK, ("::1", 8081)])
def test_pages_of_other_origins_may_not_manage(tmp_path, server):
    assert outcomes(gate(tmp_path, server), FOREIGN) == [None, ForbiddenError, ForbiddenError, None]


def test_whatever_token_they_show(tmp_path):
    assert (
        outcome(gate(tmp_path, LOOPBACK, disable_token_authorization=False), "management", FOREIGN)
        is ForbiddenError
    )


@pytest.mark.parametrize("server", [UNIX, None])
def test_no_browser_reaches_a_unix_socket(tmp_path, server):
    assert outcome(gate(tmp_path, server), "management", FOREIGN) is None


def test_an_origin_that_cors_names_may_manage(tmp_path):
    named = gate(tmp_path, LOOPBACK, cors_allowed_origin="https://evil.example")
    assert outcome(named, "management", FOREIGN) is None
    everybody = gate(tmp_path, LOOPBACK, cors_allowed_origin="*")
    assert outcome(everybody, "management", FOREIGN) is ForbiddenError


def test_what_is_configured_with_tls_is_not_answered_in_plain_text(tmp_path):
    address = Address("127.0.0.1", 8081, "https")
    plain = gate(tmp_path, LOOPBACK, management_address=address)
    assert outcomes(plain) == [HttpsOnlyError] * 4
    assert HttpsOnlyError().body() == {"status": "This TorchServe instance only accepts HTTPS requests"}
    assert outcome(gate(tmp_path, LOOPBACK, "https", management_address=address), "management") is None


def test_the_apis_of_the_socket(tmp_path):
    assert gate(tmp_path, LOOPBACK).apis == {"management"}
    assert gate(tmp_path, ("127.0.0.1", 1)).apis == set()
