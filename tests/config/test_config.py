"""Every setting is read from every source, the strongest wins, and a wrong one is a line that names it."""

import contextlib
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.config import Address, Config, load, remarks
from wfserve.config.keys import MEANINGLESS, OURS, READ, SWITCHES, TORCHSERVES, torchserve_variable
from wfserve.errors import ConfigError

KEYS = {  # key → (text, field, value)
    "inference_address": ("http://0.0.0.0:9000", "inference_address", Address("0.0.0.0", 9000)),
    "management_address": ("http://localhost", "management_address", Address("localhost", 8081)),
    "metrics_address": ("https://[::1]", "metrics_address", Address("::1", 8445, "https")),
    "workflow_store": ("/a", "workflow_store", Path("/a")),
    "model_store": ("/b", "model_store", Path("/b")),
    "load_workflows": ("a.war, x=b.war,", "load_workflows", ("a.war", "x=b.war")),
    "allowed_urls": ("https://a/.*, file://.*", "allowed_urls", ("https://a/.*", "file://.*")),
    "state_dir": ("/c ", "state_dir", Path("/c")),
    "processes": ("2", "processes", 2),
    "start_empty": ("true", "start_empty", True),
    "snapshot": ("/h", "snapshot", Path("/h")),
    "model_snapshot": ('{"models": {}} ', "model_snapshot", '{"models": {}}'),
    "job_queue_size": ("7 ", "job_queue_size", 7),
    "max_request_size": ("8", "max_request_size", 8),
    "max_response_size": ("9", "max_response_size", 9),
    "max_archive_size": ("10", "max_archive_size", 10),
    "arena_size": ("11", "arena_size", 11),
    "pinned_size": ("0", "pinned_size", 0),
    "number_of_gpu": ("2", "number_of_gpu", 2),
    "worker_threads": ("2", "worker_threads", 2),
    "worker_spin": ("0", "worker_spin", 0),
    "worker_idle_timeout": ("1.5", "worker_idle_timeout", 1.5),
    "default_response_timeout": ("1.5", "response_timeout", 1.5),
    "default_startup_timeout": ("3", "startup_timeout", 3.0),
    "stop_timeout": ("0", "stop_timeout", 0.0),
    "unregister_model_timeout": ("4", "unregister_timeout", 4.0),
    "decode_input_request": ("False", "decode_input_request", False),
    "limit_max_image_pixels": ("false ", "limit_max_image_pixels", False),
    "insecure_management": ("true", "insecure_management", True),
    "disable_token_authorization": ("False", "disable_token_authorization", False),
    "token_expiration_min": ("1.5", "token_expiration", 90.0),
    "cors_allowed_origin": ("https://y.example", "cors_allowed_origin", "https://y.example"),
    "cors_allowed_methods": ("GET, POST, PUT", "cors_allowed_methods", "GET, POST, PUT"),
    "cors_allowed_headers": ("X-Custom ", "cors_allowed_headers", "X-Custom"),
    "keystore": ("/d", "keystore", Path("/d")),
    "keystore_pass": ("open sesame ", "keystore_pass", "open sesame "),
    "keystore_type": ("JKS", "keystore_type", "JKS"),
    "private_key_file": ("/e", "private_key_file", Path("/e")),
    "certificate_file": ("/f", "certificate_file", Path("/f")),
    "default_service_handler": ("service.py:handle ", "default_service_handler", "service.py:handle"),
    "service_envelope": ("kservev2", "service_envelope", "kservev2"),
    "install_py_dep_per_model": ("true", "install_py_dep_per_model", True),
    "blacklist_env_vars": (".*USER.*|.*PASS.*", "blacklist_env_vars", ".*USER.*|.*PASS.*"),
    "enable_metrics_api": ("false", "enable_metrics_api", False),
    "metrics_mode": ("Legacy", "metrics_mode", "legacy"),
    "metrics_config": ("/g", "metrics_config", Path("/g")),
    "disable_system_metrics": ("TRUE", "disable_system_metrics", True),
}
DERIVED = {"key_file", "unused", "unknown"}


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    """A working directory with no configuration in it."""
    monkeypatch.chdir(tmp_path)


def file_of(text, name="some.properties"):
    path = Path.cwd() / name
    path.write_text(text)
    return path


def test_every_field_has_a_key():
    assert {field for _, field, _ in KEYS.values()} == set(Config.__slots__) - DERIVED
    assert KEYS.keys() == READ.keys()


@pytest.mark.parametrize("key", KEYS)
@pytest.mark.parametrize("source", ["file", "variable", "flag", "torchserve"])
def test_a_key_from_each_source(key, source):
    text, field, value = KEYS[key]
    switches = "enable_envvars_config=True\nuse_env_allowed_urls=true\n"
    config = {
        "file": lambda: load(file_of(f"{key}={text}\n"), environ={}),
        "variable": lambda: load(environ={f"WFSERVE_{key.upper()}": text}),
        "flag": lambda: load(flags={key: text}, environ={}),
        "torchserve": lambda: load(file_of(switches), environ={torchserve_variable(key): text}),
    }[source]()
    if source == "torchserve" and key in OURS:
        value = getattr(load(environ={}), field)
    assert getattr(config, field) == value
    assert (config.unused, config.unknown) == ((), ())


@pytest.mark.parametrize(
    ("sources", "expected"),
    [
        ({"file"}, 1),
        ({"file", "variable"}, 2),
        ({"file", "variable", "flag"}, 3),
        ({"file", "flag"}, 3),
        ({"file", "variable", "flag", "torchserve"}, 4),
    ],
)
def test_the_strongest_source_wins(sources, expected):
    switch = "enable_envvars_config=true\n" if "torchserve" in sources else ""
    config = load(
        file_of(f"{switch}job_queue_size=1") if "file" in sources else None,
        {"job_queue_size": "3"} if "flag" in sources else {},
        ({"WFSERVE_JOB_QUEUE_SIZE": "2"} if "variable" in sources else {}) | {"TS_JOB_QUEUE_SIZE": "4"},
    )
    assert config.job_queue_size == expected


@pytest.mark.parametrize("switch", ["", "enable_envvars_config=false", "use_env_allowed_urls=true"])
def test_torchserves_variables_have_to_be_switched_on(switch):
    environ = {"TS_JOB_QUEUE_SIZE": "4", "TS_ALLOWED_URLS": "https://.*", "TS_LOAD_MODELS": "all"}
    assert load(file_of(switch), environ=environ) == load(environ={})


def test_allowed_urls_has_a_switch_of_its_own():
    """Whoever may set a variable of a container must not open it by that."""
    environ = {"TS_ALLOWED_URLS": "https://.*"}
    assert load(file_of("enable_envvars_config=true"), environ=environ).allowed_urls == ()
    both = file_of("enable_envvars_config=true\nuse_env_allowed_urls=true")
    assert load(both, environ=environ).allowed_urls == ("https://.*",)


@pytest.mark.parametrize(
    ("key", "variable"),
    [
        ("token_expiration_min", "TS_TOKEN_EXPIRATION_TIME_MIN"),
        ("ts_open_inference_protocol", "TS_OPEN_INFERENCE_PROTOCOL"),
        ("inference_address", "TS_INFERENCE_ADDRESS"),
    ],
)
def test_names_of_torchserves_variables(key, variable):
    assert torchserve_variable(key) == variable


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
    assert config.key_file == Path.cwd() / "key_file.json"
    assert [config.address(api).host for api in ("inference", "management", "metrics")] == ["127.0.0.1"] * 3


def test_stores_stand_in_for_one_another():
    assert load(flags={"model_store": "/m"}, environ={}).workflow_store == Path("/m")
    assert load(flags={"workflow_store": "/w"}, environ={}).model_store == Path("/w")
    Path("workflow_store").mkdir()
    assert load(environ={}).model_store == Path.cwd() / "workflow_store"


@pytest.mark.parametrize("key", [key for key in KEYS if isinstance(KEYS[key][2], Path)])
def test_a_blank_path_is_none_given(key):
    assert load(flags={key: " "}, environ={}) == load(environ={})


def test_blank_allowed_urls_allow_none():
    """As in TorchServe, where a blank pattern matches no URL; unset is another matter."""
    assert load(file_of("allowed_urls="), environ={}).allowed_urls == ("",)
    assert load(environ={}).allowed_urls == ()


def test_a_path_may_begin_at_home(monkeypatch):
    monkeypatch.setenv("HOME", "/somebody")
    assert load(flags={"model_store": "~/m"}, environ={}).model_store == Path("/somebody/m")


@pytest.mark.parametrize(
    ("key", "text"),
    [
        *(("inference_address", text) for text in ("", "8080", "ftp://a:1", "http://a:0")),
        *(("job_queue_size", text) for text in ("", "0", "-1", "1.5", "ten", "1e3", "9" * 30, "٣")),
        *(("max_request_size", text) for text in ("0", "1 MB")),
        *(("worker_spin", text) for text in ("", "-1", "1.5", "1000001", "a while")),
        *(("default_response_timeout", text) for text in ("", "-1", "nan", "inf", "soon")),
        *(("token_expiration_min", text) for text in ("", "-1", "nan", "an hour", "1e308")),
        *(("decode_input_request", text) for text in ("", "yes", "1")),
        *(("model_store", text) for text in ("~nobody-of-that-name/x", "a\0b")),
        *(("blacklist_env_vars", text) for text in ("*PASS", "(", "a{99999999999}")),
        *(("allowed_urls", text) for text in ("https://a,(",)),
        *(("service_envelope", text) for text in ("jsn", "../x", "JSON")),
        *(("metrics_mode", text) for text in ("", "on")),
    ],
)
def test_a_wrong_value_is_one_line_that_names_its_key(key, text):
    with pytest.raises(ConfigError) as caught:
        load(flags={key: text}, environ={})
    assert caught.value.message.startswith(f"{key}: ")
    assert len(caught.value.message.splitlines()) == 1


@pytest.mark.parametrize("switch", SWITCHES)
def test_a_wrong_switch(switch):
    with pytest.raises(ConfigError, match=f"^{switch}: expected true or false"):
        load(file_of(f"enable_envvars_config=true\n{switch}=maybe"), environ={})


def test_what_means_nothing_here_is_kept_by_name():
    config = load(file_of("grpc_inference_port=7070\nplugins_path=p\njob_queue_size=3"), environ={})
    assert config.unused == ("grpc_inference_port", "plugins_path")
    assert config.job_queue_size == 3


def test_keys_without_effect_are_named_once():
    text = (
        "vmargs=-Xmx4g\nload_models=all\nmodel-store=x\nmodels={}\nNUM_WORKERS=1\nenable_envvars_config=true"
    )
    assert list(remarks(load(file_of(text), environ={"TS_DEBUG": "true"}))) == [
        "the configuration's load_models is ignored: models outside workflows are not served here; "
        "load_workflows names workflows",
        "keys of the configuration that mean nothing here and are ignored: vmargs, models, debug",
        "the configuration's 'model-store' is not a key of TorchServe or wfserve and is ignored; "
        "did you mean model_store?",
        "the configuration's 'NUM_WORKERS' is not a key of TorchServe or wfserve and is ignored",
    ]
    assert list(remarks(load(environ={}))) == []


def test_a_key_has_one_meaning():
    assert not TORCHSERVES.keys() & OURS.keys()
    assert not MEANINGLESS.keys() & {*READ, *SWITCHES}


def test_a_password_is_not_shown():
    config = load(flags={"keystore_pass": "sesame"}, environ={})
    assert config.keystore_pass == "sesame"
    assert "sesame" not in repr(config)


def test_variables_in_the_file():
    path = file_of("model_store=$$WHERE$$/$$WHAT-2$$")
    assert load(path, environ={"WHERE": "/a", "WHAT-2": "b\\$"}).model_store == Path("/a/b\\$")
    with pytest.raises(ConfigError, match=r"\$\$WHAT-2\$\$"):
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


NAMES = st.sampled_from([*KEYS, *MEANINGLESS, *SWITCHES, "other"])
TEXTS = st.one_of(st.text(), st.sampled_from([text for text, _, _ in KEYS.values()]))


@given(st.dictionaries(NAMES, TEXTS), st.text(), st.dictionaries(NAMES, TEXTS))
def test_any_texts_are_a_configuration_or_an_error(flags, rubbish, variables):
    lines = "\n".join(f"{key}={text}" for key, text in variables.items())
    path = file_of("").with_name("any.properties")
    path.write_bytes(f"{rubbish}\n{lines}".encode(errors="replace"))
    with contextlib.suppress(ConfigError):
        config = load(path, flags, {})
        assert config.job_queue_size > 0
        assert math.isfinite(config.stop_timeout)
        assert all(0 < a.port < 65536 or a.path for a in map(config.address, config.apis))
        assert len(list(remarks(config))) <= 3 + len(config.unknown)


def test_the_memory_of_a_control_group_counts(monkeypatch):
    original = Path.read_text
    monkeypatch.setattr(
        Path,
        "read_text",
        lambda path, *a, **k: "4000000\n" if path.name == "memory.max" else original(path, *a, **k),
    )
    assert load(environ={}).arena_size == 1_000_000
