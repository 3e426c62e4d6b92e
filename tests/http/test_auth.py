"""Keys open their own API and no other, until they expire; nobody but their owner can read them."""

import json
import os
import re
import stat
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.config import Address, Config
from wfserve.errors import ConfigError
from wfserve.http.auth import InvalidKeyError, Tokens, open_tokens

KINDS = {"management": "management", "inference": "inference", "token": "API"}
LIFETIME = 3600.0


class Clock:
    """A clock that is set by hand."""

    now = 1_800_000_000.25

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "key_file.json"


@pytest.fixture
def tokens(path, clock):
    made = Tokens(path, LIFETIME, clock)
    with made.published():
        yield made


def keys(path):
    """The keys in the file, by what they are for."""
    content = json.loads(path.read_bytes())
    return {kind: content[name]["key"] for kind, name in KINDS.items()}


def bearer(key):
    return [(b"host", b"x"), (b"authorization", b"Bearer " + key.encode())]


def opens(tokens, key):
    """What `key` is good for."""
    return {kind for kind in KINDS if is_taken(tokens, kind, bearer(key))}


def is_taken(tokens, kind, headers):
    try:
        tokens.check(kind, headers)
    except InvalidKeyError:
        return False
    return True


def test_the_file_is_torchserves(tokens, path, clock):
    content = json.loads(path.read_bytes())
    assert list(content) == ["management", "inference", "API"]
    assert all(re.fullmatch(r"[\w-]{8}", entry["key"]) for entry in content.values())
    assert len({entry["key"] for entry in content.values()}) == 3
    instant = content["inference"]["expiration time"]
    assert instant.endswith("Z")
    assert datetime.fromisoformat(instant).timestamp() == clock.now + LIFETIME
    assert list(content["API"]) == ["key"]


def test_each_key_is_good_for_one_thing(tokens, path):
    assert {kind: opens(tokens, key) for kind, key in keys(path).items()} == {kind: {kind} for kind in KINDS}


def test_a_key_ends_at_its_instant_and_the_one_for_keys_never(tokens, path, clock):
    given = keys(path)
    clock.now += LIFETIME - 0.5
    assert opens(tokens, given["inference"]) == {"inference"}
    clock.now += 0.5
    assert opens(tokens, given["inference"]) == opens(tokens, given["management"]) == set()
    assert opens(tokens, given["token"]) == {"token"}


@pytest.mark.parametrize(
    "form", ["bearer {}", "Bearer{}", "{}", "Basic {}", "Bearer {} x", "Bearer", "", "Bearer {}x"]
)
def test_what_is_no_token(tokens, path, form):
    header = (b"authorization", form.format(keys(path)["inference"]).encode())
    with pytest.raises(InvalidKeyError) as refusal:
        tokens.check("inference", [header])
    assert refusal.value.body() == {
        "code": 400,
        "type": "InvalidKeyException",
        "message": "Token Authorization failed. Token either incorrect, expired, or not provided correctly",
    }


def test_blanks_do_not_matter(tokens, path):
    tokens.check("inference", [(b"authorization", b"Bearer   " + keys(path)["inference"].encode())])


def test_no_header_is_no_token(tokens):
    with pytest.raises(InvalidKeyError, match=r"^Token Authentication failed"):
        tokens.check("token", [(b"host", b"x")])


@given(st.binary())
def test_any_bytes_are_refused(tmp_path_factory, value):
    tokens = Tokens(tmp_path_factory.getbasetemp() / "unwritten.json", LIFETIME)
    assert not any(is_taken(tokens, kind, [(b"authorization", value)]) for kind in KINDS)


@pytest.mark.parametrize("verdict", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_nothing_but_a_comparison_in_constant_time_decides(tokens, path, monkeypatch, kind, verdict):
    """Its verdict stands against what the keys are, so no other comparison comes before or after it."""
    key = keys(path)[kind]
    near = key[:-1] + "!"  # differs in its last byte
    compared = []
    monkeypatch.setattr("wfserve.http.auth.compare_digest", lambda *pair: (compared.append(pair), verdict)[1])
    assert [is_taken(tokens, kind, bearer(shown)) for shown in (key, near)] == [verdict] * 2
    assert compared == [(shown.encode(), key.encode()) for shown in (key, near)]


@pytest.mark.parametrize("kind", ["management", "inference"])
def test_a_new_key_ends_the_old_one_alone(tokens, path, clock, kind):
    before = keys(path)
    clock.now += LIFETIME
    tokens.renew(kind)
    after = keys(path)
    assert {each for each in KINDS if before[each] != after[each]} == {kind}
    assert opens(tokens, before[kind]) == set()
    assert opens(tokens, after[kind]) == {kind}


def mode(path):
    return stat.S_IMODE(path.stat().st_mode)


def test_only_the_owner_reads_the_file_whatever_the_umask(tokens, path):
    assert mode(path) == 0o600
    before = os.umask(0)
    try:
        tokens.renew("inference")
    finally:
        os.umask(before)
    assert mode(path) == 0o600


def test_the_file_is_never_open_to_others(path, monkeypatch):
    """Its mode is right from its creation, not mended later."""
    modes = []
    real = os.replace
    monkeypatch.setattr(os, "chmod", lambda *_: pytest.fail("too late"))
    monkeypatch.setattr(
        os, "replace", lambda source, target: (modes.append(mode(source)), real(source, target))
    )
    before = os.umask(0)
    try:
        with Tokens(path, LIFETIME).published():
            assert modes == [0o600]
    finally:
        os.umask(before)


def test_what_lay_there_is_replaced_and_not_written_to(path, tmp_path):
    victim = tmp_path / "victim"
    victim.write_text("mine")
    path.symlink_to(victim)
    with Tokens(path, LIFETIME).published():
        assert not path.is_symlink()
    assert victim.read_text() == "mine"


def test_the_file_goes_with_the_server(path, tmp_path):
    with Tokens(path, LIFETIME).published():
        assert path.exists()
    assert list(tmp_path.iterdir()) == []


def test_another_servers_file_stays(path):
    with Tokens(path, LIFETIME).published():
        other = Tokens(path, LIFETIME)
        other.renew("inference")
    assert opens(other, keys(path)["inference"]) == {"inference"}


def test_a_file_that_cannot_be_written(tmp_path):
    path = tmp_path / "none" / "key_file.json"
    refused = pytest.raises(ConfigError, match=f"^cannot write the key file {path}: No such file")
    with refused, Tokens(path, LIFETIME).published():
        pass


def test_a_renewal_that_cannot_be_written_changes_nothing(tokens, path, tmp_path, monkeypatch):
    key = keys(path)["inference"]

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", fail)
    with pytest.raises(OSError, match="No space"):
        tokens.renew("inference")
    assert opens(tokens, key) == {"inference"}
    assert list(tmp_path.iterdir()) == [path]


def test_a_lifetime_beyond_all_calendars(path):
    with Tokens(path, 1e300).published():
        assert json.loads(path.read_bytes())["inference"]["expiration time"].startswith("9999-12-31T")


BEYOND = Address("0.0.0.0", 8080)


@pytest.mark.parametrize(
    ("settings", "anywhere", "published"),
    [
        ({}, False, False),
        ({}, True, True),
        ({"inference_address": BEYOND}, False, True),
        ({"disable_token_authorization": False}, False, True),
        ({"disable_token_authorization": True}, True, True),
        ({"disable_token_authorization": True, "insecure_management": True}, True, False),
        ({"inference_address": BEYOND, "insecure_management": True}, False, True),
    ],
)
def test_the_file_is_there_where_a_client_may_need_it(path, caplog, settings, anywhere, published):
    caplog.set_level("INFO")
    with open_tokens(Config(key_file=path, **settings), anywhere=anywhere):
        assert path.exists() is published
        assert (str(path) in caplog.text) is published
        if published:
            assert not any(key in caplog.text for key in keys(path).values())
    assert not path.exists()
