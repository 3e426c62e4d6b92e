"""An installation is judged as it lies there: what runs, what does not, and nothing is touched."""

import json
import os
import socket
import zipfile
from pathlib import Path

import pytest

from tests.archives import chain, pack, pack_handler
from wfserve.archive.pack import ModelArchiveOptions, pack_model
from wfserve.doctor import examine
from wfserve.errors import ConfigError

APIS = ("inference", "management", "metrics")
HANDLER = "def handle(data, context):\n    return data\n"
ONE = "m:\n  url: m.mar\n"


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def store():
    """An empty store beside the configuration that names it."""
    directory = Path("store").absolute()
    directory.mkdir()
    return directory


def doctor(text="model_store=store", **environ):
    """What is said, (severity, area, name) → sentences, of a configuration on ports of nobody."""
    addresses = "".join(f"{api}_address=unix:{Path.cwd()}/{api}\n" for api in APIS)
    Path("config.properties").write_text(f"{addresses}{text}\n")
    found = examine(Path("config.properties"), environ)
    said = {}
    for each in found:
        said.setdefault((each.severity, each.area, each.subject), []).append(each.message)
    return said


def worries(said):
    return {key: sentences for key, sentences in said.items() if key[0] in ("warning", "error")}


def model(store, name="m", code=HANDLER, handler=None, requirements=None, config=None, **more):
    """Pack a model with a handler of its own, unless one is named."""
    sources = store.parent / "sources"
    sources.mkdir(exist_ok=True)
    files = {"handler.py": code, "requirements.txt": requirements, "model-config.yaml": config}
    for file, content in files.items():
        if content is not None:
            (sources / file).write_text(content)
    more |= {"requirements_file": sources / "requirements.txt"} if requirements is not None else {}
    more |= {"config_file": sources / "model-config.yaml"} if config is not None else {}
    options = ModelArchiveOptions(
        name, handler or str(sources / "handler.py"), "1.0", export_path=store, force=True, **more
    )
    return pack_model(options).name


def rewrite(archive, name, change):
    """Change one file of a zip archive."""
    with zipfile.ZipFile(archive) as old:
        content = {each: old.read(each) for each in old.namelist()}
    content[name] = change(content[name])
    with zipfile.ZipFile(archive, "w") as new:
        for each, data in content.items():
            new.writestr(each, data)


def test_one_that_runs(store):
    pack(store, "w", chain("m", "upper", settings=ONE))
    model(store)
    before = {path: path.stat().st_mtime_ns for path in store.rglob("*")}
    said = doctor("model_store=store\nload_workflows=x=w.war")
    assert ("ok", "workflow", "w.war") in said
    assert ("ok", "model", "m.mar") in said
    assert said["ok", "setting", "model_store"] == ["used"]
    assert not worries(said)
    assert {path: path.stat().st_mtime_ns for path in store.rglob("*")} == before


def test_a_configuration_that_cannot_be_read():
    with pytest.raises(ConfigError, match="cannot read"):
        examine(Path("missing"), {})


def test_it_is_about_the_file_that_is_named(store):
    Path("other").write_text("job_queue_size=x")
    assert ("ok", "setting", "model_store") in doctor(TS_CONFIG_FILE="other")


@pytest.mark.parametrize(
    ("line", "severity", "sentence"),
    [
        ("job_queue_size=5", "ok", "used"),
        ("enable_envvars_config=true", "ok", "used"),
        ("vmargs=-Xmx4g", "note", "ignored: there is no Java here"),
        ("number_of_gpu=2", "ok", "used"),
        ("load_models=all", "warning", "ignored: models outside workflows are not served here"),
        ("default_service_handler=a.py", "ok", "used"),
        ("job_queue_sizes=5", "warning", "did you mean job_queue_size?"),
        ("NUM_WORKERS=5", "warning", "remove it"),
        ("job_queue_size=many", "error", "expected a whole number, not 'many'"),
        ("keystore=absent.p12", "error", "absent.p12 is no file"),
        ("workflow_store=absent", "error", "absent is no directory"),
    ],
)
def test_each_key(store, line, severity, sentence):
    said = doctor(f"model_store=store\n{line}")
    (message,) = said[severity, "setting", line.partition("=")[0]]
    assert sentence in message
    assert sum(key[2] == line.partition("=")[0] for key in said) == 1


def test_a_password_is_not_told(store):
    assert "sesame" not in str(doctor("model_store=store\nkeystore_pass=sesame\nmax_request_size=0"))


def test_no_store():
    assert worries(doctor("")).keys() == {
        ("warning", "setting", "workflow_store"),
        ("warning", "setting", "model_store"),
    }


def test_the_refusal(store):
    said = doctor("model_store=store\ninference_address=http://0.0.0.0:1\ndisable_token_authorization=true")
    (message,) = said["error", "setting", "disable_token_authorization"]
    assert "--insecure-management" in message


def test_addresses(store):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        Path("old").touch()
        said = doctor(
            f"model_store=store\ninference_address=http://127.0.0.1:{port}\n"
            f"management_address=unix:{Path.cwd()}/old\nmetrics_address=unix:{Path.cwd()}/new"
        )
    assert "in use" in said["warning", "address", f"http://127.0.0.1:{port}"][0]
    assert "in use" in said["warning", "address", f"unix:{Path.cwd()}/old"][0]
    assert said["ok", "address", f"unix:{Path.cwd()}/new"] == ["free"]
    assert not Path("new").exists()


@pytest.mark.parametrize("address", ["http://192.0.2.1:1", "unix:/nowhere/s"])
def test_an_address_that_cannot_be(store, address):
    said = doctor(f"model_store=store\nmetrics_address={address}")
    assert "no server can listen there" in said["error", "address", address][0]


def test_a_workflow_with_mistakes(store):
    pack(store, "w", "models: {}\ndag:\n  nothing: [upper]\n  upper: [nothing]\n")
    messages = doctor()["error", "workflow", "w.war"]
    assert any("nothing" in each and "spec.yaml:3: " in each for each in messages)


def test_a_model_that_is_missing(store):
    pack(store, "w", chain("m", settings=ONE))
    (message,) = doctor()["error", "workflow", "w.war"]
    assert message.startswith("node m: Model not found at: m.mar; put it into ")


def test_a_model_that_is_downloaded(store):
    pack(store, "w", chain("m", settings="m:\n  url: https://a.example/m.mar\n"))
    said = doctor()
    assert "is downloaded when" in said["note", "workflow", "w.war"][0]
    assert not worries(said)


def test_a_workflow_to_load_that_is_missing(store):
    assert ("error", "workflow", "x=w.war") in doctor("model_store=store\nload_workflows=x=w.war")


def test_workers_that_grow(store):
    pack(store, "w", chain("m", settings="min-workers: 1\nmax-workers: 4\n" + ONE))
    model(store, config="minWorkers: 2\nmaxWorkers: 2\n")
    said = doctor()
    assert "node m grows from 1 to 4 workers" in said["note", "workflow", "w.war"][0]
    assert "count before the workflow's" in said["note", "model", "m.mar"][0]
    assert not worries(said)


def test_functions_that_miss_a_package(store):
    pack(store, "w", chain("echo"), functions="import nowhere\ndef echo(data, context):\n    return data\n")
    (message,) = doctor()["error", "workflow", "w.war"]
    assert message == "functions.py:1 imports nowhere, which is not installed: install it"


@pytest.mark.parametrize(
    ("code", "settings", "severity", "sentence"),
    [
        ("import nowhere\n", "", "error", "handler.py:1 imports nowhere, which is not installed"),
        ("def f():\n    import nowhere\n", "", "warning", "handler.py:2 imports nowhere"),
        ("import ts.nowhere\n", "", "error", "is not in wfserve's ts"),
        ("import nowhere\n", "install_py_dep_per_model=true", "note", "its requirements have to bring"),
        ("", "", "warning", "its requirements.txt is not installed"),
        ("def f(:\n", "", "error", "its handler is not Python"),
    ],
)
def test_the_code_of_a_model(store, code, settings, severity, sentence):
    pack(store, "w", chain("m", settings=ONE))
    model(store, code=code + HANDLER, requirements="nowhere\n")
    messages = doctor(f"model_store=store\n{settings}")[severity, "model", "m.mar"]
    assert any(sentence in message for message in messages)


def test_the_class_of_a_model(store):
    pack(store, "w", chain("m", settings=ONE))
    Path("net.py").write_text("import nowhere\nclass Net: pass\n")
    model(store, model_file=Path("net.py"))
    assert "net.py:1 imports nowhere" in doctor()["error", "model", "m.mar"][0]


def test_default_handlers(store):
    pack(store, "w", chain("m", settings=ONE))
    model(store, handler="image_classifier")
    assert ("ok", "model", "m.mar") in doctor()
    rewrite(store / "m.mar", "MAR-INF/MANIFEST.json", lambda text: text.replace(b"classifier", b"clasifier"))
    assert "neither in the archive nor a default handler" in doctor()["error", "model", "m.mar"][0]


def test_a_model_whose_manifest_names_no_handler(store):
    pack(store, "w", chain("m", settings=ONE))
    model(store)
    nameless = json.dumps({"runtime": "python"}).encode()
    rewrite(store / "m.mar", "MAR-INF/MANIFEST.json", lambda _: nameless)
    assert "set default_service_handler" in doctor()["error", "model", "m.mar"][0]
    said = doctor("model_store=store\ndefault_service_handler=/opt/handler.py:handle")
    assert said["ok", "model", "m.mar"] == ["model m 1.0 will run"]
    said = doctor("model_store=store\ndefault_service_handler=other.py")
    assert "its handler other.py is neither" in said["error", "model", "m.mar"][0]


def test_an_onnx_model_without_its_runtime(store, monkeypatch):
    monkeypatch.setattr("wfserve.doctor.archives.is_installed", lambda name: name != "onnxruntime")
    pack(store, "w", chain("m", settings=ONE))
    Path("net.onnx").touch()
    model(store, serialized_file=Path("net.onnx"))
    assert "onnxruntime is not installed" in doctor()["error", "model", "m.mar"][0]


def test_a_model_of_another_runtime(store):
    pack(store, "w", chain("m", settings=ONE))
    model(store)
    change = lambda text: json.dumps(json.loads(text) | {"runtime": "LSP"}).encode()  # noqa: E731
    rewrite(store / "m.mar", "MAR-INF/MANIFEST.json", change)
    assert "only Python models" in doctor()["error", "model", "m.mar"][0]


def test_configuration_of_a_model_that_means_nothing_here(store):
    pack(store, "w", chain("m", settings=ONE))
    model(store, config="parallelType: pp\ncontinuousBatching: false\n")
    (message,) = doctor()["warning", "model", "m.mar"]
    assert message.startswith("parallelType of its model-config.yaml means nothing here")


def test_a_model_of_no_workflow(store):
    """It is not served, so that what is wrong with it keeps nothing from running."""
    pack_handler(store, "alone", "import nowhere\n" + HANDLER)
    said = doctor()
    assert "no workflow of the store names it" in said["note", "model", "alone.mar"][0]
    assert worries(said).keys() == {("warning", "model", "alone.mar")}


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken", b"\x1f\x8b broken"])
def test_what_is_no_archive(store, content):
    (store / "broken.mar").write_bytes(content)
    (store / "notes.txt").write_bytes(content)
    (store / "directory").mkdir()
    os.mkfifo(store / "pipe.war")
    said = doctor()
    assert ("error", "model", "broken.mar") in said
    assert {key[2] for key in said if key[1] in ("model", "workflow")} == {"broken.mar", "pipe.war"}


@pytest.mark.parametrize("content", [b"", b"text", b"PK\x03\x04 broken", b"\x1f\x8b broken", None])
def test_a_broken_workflow(store, content):
    path = Path("workflows/w.war")
    path.parent.mkdir()
    path.mkdir() if content is None else path.write_bytes(content)
    said = doctor("model_store=store\nworkflow_store=workflows")
    (message,) = said["error", "workflow", "w.war"]
    assert message.startswith("it will not run: ")
    assert worries(said).keys() == {("error", "workflow", "w.war")}


@pytest.mark.parametrize("file", ["h.py", "image_classifier.py", "json.py"])
def test_a_handler_in_a_directory(store, file):
    pack(store, "w", chain("m", settings=ONE))
    Path("tree/d/e").mkdir(parents=True)
    Path("tree/d/e", file).write_text(HANDLER)
    model(store, extra_files=("tree",))
    place = f"d/e/{file}:handle".encode()
    rewrite(store / "m.mar", "MAR-INF/MANIFEST.json", lambda text: text.replace(b"handler.py", place))
    (message,) = doctor()["error", "model", "m.mar"]
    assert "is in a directory, where no worker looks" in message


def test_a_handler_beside_the_manifest_may_be_named_by_a_path(store):
    pack(store, "w", chain("m", settings=ONE))
    model(store)
    rewrite(
        store / "m.mar", "MAR-INF/MANIFEST.json", lambda text: text.replace(b"handler.py", b"d/handler.py")
    )
    assert ("ok", "model", "m.mar") in doctor()


def test_snapshots(store):
    Path("logs/config").mkdir(parents=True)
    assert not [key for key in doctor() if key[1] == "snapshot"]
    Path("logs/config/20240101000000000-startup.cfg").touch()
    assert ("note", "snapshot", "logs/config") in doctor()
    assert not [key for key in doctor(LOG_LOCATION="elsewhere") if key[1] == "snapshot"]
