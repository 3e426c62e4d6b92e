"""A model's own packages come first for it, and for nobody else; without leave nothing is installed."""

import dataclasses
import textwrap
import zipfile

import pytest
import trio

from tests.archives import pack
from tests.pools import workers
from tests.registries import left_in, predict, registry, until
from wfserve.archive.pack import ModelArchiveOptions, pack_model
from wfserve.errors import WorkflowError

ASK = """
import click, json, os, subprocess, sys

def handle(data, context):
    if data is None:
        return None
    helper = subprocess.run([sys.executable, "-c", "import click; print(click.__version__)"],
                            capture_output=True, text=True)
    return [{"click": click.__version__, "python": sys.executable, "helper": helper.stdout.strip()}]
"""
SPEC = "models:\n  timeout-ms: 60000\n  m:\n    url: asker.mar\ndag:\n  m: [ask]\n"
BESIDE = """
import json

def ask(data, context):
    if data is None:
        return None
    import click
    return [{**json.loads(bytes(data[0]["body"])), "beside": getattr(click, "__version__", "installed")}]
"""


def wheel(directory, name, version, code):
    """A wheel of one module, made by hand: no index and no build."""
    info = f"{name}-{version}.dist-info"
    with zipfile.ZipFile(directory / f"{name}-{version}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{name}.py", code)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")


@pytest.fixture
def archived(store, tmp_path):
    """Pack a model that requires `requirement`, and a workflow with a function beside it."""
    wheel(tmp_path, "click", "99.0", "__version__ = '99.0'\n")

    def archive(requirement="click", model_config=""):
        handler, requirements, settings = (tmp_path / n for n in ("asker.py", "requirements.txt", "c.yaml"))
        handler.write_text(textwrap.dedent(ASK))
        requirements.write_text(f"--no-index\n--find-links {tmp_path}\n{requirement}\n")
        settings.write_text(model_config or "{}")
        options = ModelArchiveOptions(
            "asker",
            str(handler),
            "1.0",
            export_path=store,
            requirements_file=requirements,
            config_file=settings,
        )
        pack_model(options)
        return pack(store, "asking", SPEC, BESIDE)

    return archive


async def answer(opened, archive):
    workflow = await opened.register(archive)
    return await predict(workflow, b"x", opened)


async def test_requirements_are_installed_for_their_model_alone(config, archived):
    config = dataclasses.replace(config, install_py_dep_per_model=True)
    async with registry(config) as opened:
        said = await answer(opened, archived())
        assert '"click": "99.0"' in said
        assert '"helper": "99.0"' in said  # what the handler starts finds them, too
        assert '"beside": "99.0"' not in said
        (worker,) = opened.lookup("asking").pools["m"].statistics().replicas
        assert worker.pid in workers()  # it leads a group of its own, to be killed with what it started
        await opened.unregister("asking")
        assert left_in(config) == []


async def test_an_environment_of_its_own(config, archived):
    config = dataclasses.replace(config, install_py_dep_per_model=True)
    async with registry(config) as opened:
        said = await answer(opened, archived(model_config="useVenv: true"))
        assert '"click": "99.0"' in said
        assert '"helper": "99.0"' in said
        assert f'"python": "{config.state_dir}' in said  # and with it torch, which only the server has
        assert '"beside": "99.0"' not in said


async def test_those_of_a_shared_model_are_installed_once(config, store, archived, monkeypatch):
    config = dataclasses.replace(config, install_py_dep_per_model=True)
    commands = []
    original = trio.run_process

    async def run_process(command, **more):
        commands.append(command)
        return await original(command, **more)

    monkeypatch.setattr(trio, "run_process", run_process)
    archived()
    for name in ("a", "b"):
        pack(store, name, SPEC.replace("asker.mar", "asker.mar\n    share: on"), BESIDE)
    async with registry(config) as opened:
        for name in ("a", "b"):
            assert '"click": "99.0"' in await answer(opened, f"{name}.war")
        assert len(commands) == 1
        await opened.unregister("a")
        assert '"click": "99.0"' in await predict(opened.lookup("b"), b"x", opened)


async def test_without_leave_nothing_is_installed(config, archived):
    async with registry(config) as opened:
        assert '"click": "99.0"' not in await answer(opened, archived())


async def test_requirements_that_cannot_be_met(config, archived, caplog):
    config = dataclasses.replace(config, install_py_dep_per_model=True)
    async with registry(config) as opened:
        with pytest.raises(WorkflowError, match="Custom pip package installation failed for model asking__m"):
            await opened.register(archived("there-is-no-such-package"))
        assert "No matching distribution found for there-is-no-such-package" in caplog.text
        assert left_in(config) == []


async def test_requirements_outside_the_archive(config, archived, store):
    config = dataclasses.replace(config, install_py_dep_per_model=True)
    archive = archived()
    model = store / "asker.mar"
    with zipfile.ZipFile(model) as packed:
        members = {name: packed.read(name) for name in packed.namelist()}
    manifest = "MAR-INF/MANIFEST.json"
    members[manifest] = members[manifest].replace(b'"requirements.txt"', b'"../../../requirements.txt"')
    with zipfile.ZipFile(model, "w") as packed:
        for name, data in members.items():
            packed.writestr(name, data)
    async with registry(config) as opened:
        with pytest.raises(WorkflowError, match="failed to register"):
            await opened.register(archive)


async def test_a_registration_that_is_cancelled_stops_pip(config, archived, monkeypatch):
    config = dataclasses.replace(config, install_py_dep_per_model=True)
    started = []
    original = trio.run_process

    async def run_process(command, **more):
        started.append(command)
        return await original(["sleep", "3600"], **more)

    monkeypatch.setattr(trio, "run_process", run_process)
    async with registry(config) as opened, trio.open_nursery() as nursery:
        nursery.start_soon(opened.register, archived())
        await until(lambda: started)
        nursery.cancel_scope.cancel()
    assert left_in(config) == []
