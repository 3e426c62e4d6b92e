"""Every setting is read from every source, the strongest wins, and a wrong one is a line that names it."""

import contextlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.config import Address, Config, load, parse_properties
from wfserve.errors import ConfigError

KEYS = {  # key → (text, field, value)
    "inference_address": ("http://0.0.0.0:9000", "inference_address", Address("0.0.0.0", 9000)),
    "management_address": ("http://localhost", "management_address", Address("localhost", 8081)),
    "metrics_address": ("http://[::1]:9002/", "metrics_address", Address("::1", 9002)),
    "workflow_store": ("/a", "workflow_store", Path("/a")),
    "model_store": ("/b", "model_store", Path("/b")),
    "load_workflows": ("a.war, x=b.war,", "load_workflows", ("a.war", "x=b.war")),
    "allowed_urls": ("https://a/.*,file://.*", "allowed_urls", ("https://a/.*", "file://.*")),
    "state_dir": ("/c", "state_dir", Path("/c")),
    "job_queue_size": ("7", "job_queue_size", 7),
    "max_request_size": ("8", "max_request_size", 8),
    "max_response_size": ("9", "max_response_size", 9),
    "max_archive_size": ("10", "max_archive_size", 10),
    "arena_size": ("11", "arena_size", 11),
    "worker_threads": ("2", "worker_threads", 2),
    "default_response_timeout": ("1.5", "response_timeout", 1.5),
    "default_startup_timeout": ("3", "startup_timeout", 3.0),
    "stop_timeout": ("0", "stop_timeout", 0.0),
    "unregister_model_timeout": ("4", "unregister_timeout", 4.0),
    "decode_input_request": ("False", "decode_input_request", False),
    "limit_max_image_pixels": ("false", "limit_max_image_pixels", False),
    "insecure_management": ("true", "insecure_management", True),
}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A working directory with no configuration in it."""
    monkeypatch.chdir(tmp_path)


def file_of(text, name="some.properties"):
    path = Path.cwd() / name
    path.write_text(text)
    return path


@pytest.mark.parametrize("address", ["http://0.0.0.0:8081", "http://host-1.example", "http://10.0.0.1:1"])
def test_management_beyond_loopback_has_to_be_asked_for(address):
    flags = {"management_address": address}
    with pytest.raises(ConfigError, match="may run code here"):
        load(None, flags, environ={})
    assert load(None, flags | {"insecure_management": "true"}, environ={}).insecure_management


def test_every_field_has_a_key():
    fields = {field for _, field, _ in KEYS.values()}
    assert fields == set(Config.__slots__) - {"unused"}


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("source", ["file", "variable", "flag"])
def test_a_key_from_each_source(key, source):
    text, field, value = KEYS[key]
    config = {
        "file": lambda: load(file_of(f"{key}={text}\n"), environ={}),
        "variable": lambda: load(environ={f"WFSERVE_{key.upper()}": text}),
        "flag": lambda: load(flags={key: text}, environ={}),
    }[source]()
    assert getattr(config, field) == value
    assert config.unused == ()


@pytest.mark.parametrize(
    ("sources", "expected"),
    [({"file"}, 1), ({"file", "variable"}, 2), ({"file", "variable", "flag"}, 3), ({"file", "flag"}, 3)],
)
def test_the_strongest_source_wins(sources, expected):
    config = load(
        file_of("job_queue_size=1") if "file" in sources else None,
        {"job_queue_size": "3"} if "flag" in sources else {},
        {"WFSERVE_JOB_QUEUE_SIZE": "2"} if "variable" in sources else {},
    )
    assert config.job_queue_size == expected


def test_the_file_is_the_variables_then_the_flags_then_the_directorys():
    for name, size in (("config.properties", 1), ("flag", 2), ("variable", 3)):
        file_of(f"job_queue_size={size}", name)
    named = {"TS_CONFIG_FILE": "variable"}
    assert load(environ={}).job_queue_size == 1
    assert load(Path("flag"), environ={}).job_queue_size == 2
    assert load(Path("flag"), environ=named).job_queue_size == 3
    assert load(environ={"TS_CONFIG_FILE": ""}).job_queue_size == 1


def test_defaults_are_complete():
    config = load(environ={})
    assert (config.workflow_store, config.model_store, config.unused) == (None, None, ())
    assert config.arena_size > 0
    assert config.state_dir.is_absolute()
    assert [config.address(api).host for api in ("inference", "management", "metrics")] == ["127.0.0.1"] * 3


def test_stores_stand_in_for_one_another():
    assert load(flags={"model_store": "/m"}, environ={}).workflow_store == Path("/m")
    assert load(flags={"workflow_store": "/w"}, environ={}).model_store == Path("/w")
    Path("workflow_store").mkdir()
    assert load(environ={}).model_store == Path.cwd() / "workflow_store"


@pytest.mark.parametrize("key", [key for key in KEYS if key.endswith(("store", "state_dir"))])
def test_a_blank_path_is_none_given(key):
    assert load(flags={key: " "}, environ={}) == load(environ={})


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    assert load(flags={"model_store": "~/m"}, environ={}).model_store == Path("/somebody/m")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("inference_address", text) for text in ("", "8080", "https://a:1", "unix:/tmp/s", "ftp://a:1")),
        *(("inference_address", f"http://a:{port}") for port in ("0", "65536", "99999", "x", "-1")),
        *(
            ("metrics_address", f"http://{host}:1")
            for host in ("", "a b", "a..b", ".", "a" * 64, "[::1", "é")
        ),
        *(("job_queue_size", text) for text in ("", "0", "-1", "1.5", "ten", "1e3", "9" * 30)),
        *(("max_request_size", text) for text in ("0", "1 MB")),
        *(("default_response_timeout", text) for text in ("", "-1", "nan", "inf", "soon")),
        *(("decode_input_request", text) for text in ("", "yes", "1")),
        *(("model_store", text) for text in ("~nobody-of-that-name/x", "a\0b")),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(key, text):
    with pytest.raises(ConfigError) as caught:
        load(flags={key: text}, environ={})
    assert caught.value.message.startswith(f"{key}: ")
    assert len(caught.value.message.splitlines()) == 1


def test_what_means_nothing_here_is_kept_by_name():
    config = load(file_of("grpc_inference_port=7070\nmodel_snapshot={}\njob_queue_size=3"), environ={})
    assert config.unused == ("grpc_inference_port", "model_snapshot")
    assert config.job_queue_size == 3


def test_variables_in_the_file():
    path = file_of("model_store=$$WHERE$$/$$WHAT$$")
    assert load(path, environ={"WHERE": "/a", "WHAT": "b"}).model_store == Path("/a/b")
    with pytest.raises(ConfigError, match=r"\$\$WHAT\$\$"):
        load(path, environ={"WHERE": "/a"})


@pytest.mark.parametrize("kind", ["missing", "directory", "binary"])
def test_a_file_that_cannot_be_read(kind):
    path = Path(kind)
    if kind == "directory":
        path.mkdir()
    elif kind == "binary":
        path.write_bytes(b"\x80\xff\0")
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(path, environ={})
    with pytest.raises(ConfigError, match="cannot read the configuration"):
        load(environ={"TS_CONFIG_FILE": str(path)})


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1\nb = 2\nc: 3\nd 4\ne", {"a": "1", "b": "2", "c": "3", "d": "4", "e": ""}),
        ("# a=1\n! b=2\n\n  c=3  ", {"c": "3"}),
        ("a=1,\\\n   2,\\\r\n3", {"a": "1,2,3"}),
        ("# a comment \\\nb=2", {"b": "2"}),
        ("a=1\rb=2\r\nc=3", {"a": "1", "b": "2", "c": "3"}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=1\\", {"a": "1"}),
        ("a=C:\\models\\x", {"a": "C:\\models\\x"}),
        ("a=\u2028\x0bx", {"a": "x"}),
        ("\\", {}),
        ("", {}),
    ],
)
def test_properties(text, expected):
    assert parse_properties(text) == expected


NAMES = st.sampled_from([*KEYS, "other"])
TEXTS = st.one_of(st.text(), st.sampled_from([text for text, _, _ in KEYS.values()]))


@given(st.dictionaries(NAMES, TEXTS), st.text(), st.dictionaries(NAMES, TEXTS))
def test_any_texts_are_a_configuration_or_an_error(flags, rubbish, variables):
    lines = "\n".join(f"{key}={text}" for key, text in variables.items())
    path = file_of("").with_name("any.properties")
    path.write_bytes(f"{rubbish}\n{lines}".encode(errors="replace"))
    flags.pop("other", None)
    with contextlib.suppress(ConfigError):
        config = load(path, flags, {})
        assert config.job_queue_size > 0
        assert math.isfinite(config.stop_timeout)
        assert all(0 < config.address(api).port < 65536 for api in ("inference", "management", "metrics"))


def test_apis_by_port():
    config = load(flags={"metrics_address": "http://127.0.0.1:8081"}, environ={})
    assert config.exposed(8080) == {"inference"}
    assert config.exposed(8081) == {"management", "metrics"}
    assert config.exposed(8082) == frozenset()


@pytest.mark.parametrize(
    ("address", "url", "bind"),
    [
        (Address("127.0.0.1", 80), "http://127.0.0.1:80", "127.0.0.1:80"),
        (Address("::1", 8080), "http://[::1]:8080", "[::1]:8080"),
    ],
)
def test_an_address_as_url_and_bind(address, url, bind):
    assert (str(address), address.bind) == (url, bind)


def test_the_memory_of_a_control_group_counts(monkeypatch):
    original = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *a, **k: "4000000\n" if path.name == "memory.max" else original(path, *a, **k),
    )
    assert load(environ={}).arena_size == 1_000_000
