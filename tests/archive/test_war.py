"""A workflow archive is opened as a whole, or refused with TorchServe's words and nothing left."""

import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wfserve.archive.war import open_workflow
from wfserve.errors import InvalidWorkflowError, WfserveError

SPEC = "models:\n  m: {url: m.mar}\ndag:\n  f: [m]\n"
MANIFEST: dict[str, Any] = {
    "createdOn": "01/01/2024 00:00:00",
    "archiverVersion": "0.2.15",
    "workflow": {"workflowName": "w", "specFile": "w.yaml", "handler": "h.py"},
}


def war(
    path: Path, manifest: object = MANIFEST, spec: str | bytes = SPEC, handler: str | None = "h.py"
) -> Path:
    """Write a workflow archive; a manifest that is bytes goes in as it is, None leaves it out."""
    with zipfile.ZipFile(path, "w") as archive:
        if manifest is not None:
            content = manifest if isinstance(manifest, bytes) else json.dumps(manifest)
            archive.writestr("WAR-INF/MANIFEST.json", content)
        archive.writestr("w.yaml", spec)
        if handler is not None:
            archive.writestr(handler, "def f(data, context): return data\n")
    return path


def without(*path: str) -> dict[str, Any]:
    """Return the manifest without one of its values."""
    manifest = json.loads(json.dumps(MANIFEST))
    section = manifest
    for name in path[:-1]:
        section = section[name]
    del section[path[-1]]
    return manifest


def refusal(path: Path) -> WfserveError:
    """Return why `path` is refused, having checked that nothing is left."""
    with pytest.raises(InvalidWorkflowError) as caught:
        open_workflow(path, path.parent / "out")
    assert not (path.parent / "out").exists()
    return caught.value


def test_opens(tmp_path: Path) -> None:
    archive = open_workflow(war(tmp_path / "w.mar"), tmp_path / "out")
    assert (archive.name, archive.handler, archive.archive_version) == ("w", "h.py", None)
    assert archive.directory == tmp_path / "out"
    assert archive.spec.dag == {"f": ("m",)}
    assert archive.spec_text == SPEC
    assert archive.manifest == MANIFEST
    assert (archive.directory / "h.py").is_file()


def test_a_version_in_the_manifest(tmp_path: Path) -> None:
    manifest = {**MANIFEST, "workflow": {**MANIFEST["workflow"], "workflowVersion": "2.1"}}
    assert open_workflow(war(tmp_path / "w", manifest), tmp_path / "out").archive_version == "2.1"


@pytest.mark.parametrize(
    ("manifest", "status", "message"),
    [
        (None, 500, "Workflow name is not defined."),
        ({}, 500, "Workflow name is not defined."),
        ({"workflow": None}, 500, "Missing Workflow entry in manifest file."),
        (without("workflow", "workflowName"), 500, "Workflow name is not defined."),
        ({"workflow": {}}, 500, "Workflow name is not defined."),
        ({"workflow": {"workflowName": "w"}}, 500, "Workflow archive version is not defined."),
        (without("archiverVersion"), 500, "Workflow archive version is not defined."),
        (without("createdOn"), 500, "Workflow archive createdOn is not defined."),
        (without("workflow", "specFile"), 400, "Workflow specification file is not defined."),
        (without("workflow", "handler"), 400, "Workflow handler is not defined."),
        (b"{", 500, "Failed to parse signature.json."),
        (b"[]", 500, "Failed to parse signature.json."),
        (b"", 500, "Failed to parse signature.json."),
        (b"\xff{}", 500, "Failed to parse signature.json."),
        (b"[" * 100_000, 500, "Failed to parse signature.json."),
        (b'{"workflow": []}', 500, "Failed to parse signature.json."),
        (b'{"workflow": {"workflowName": ["w"]}}', 500, "Failed to parse signature.json."),
        (b'{"workflow": {"workflowName": "\\ud800"}}', 500, "Failed to parse signature.json."),
        (b'{"x": NaN}', 500, "Failed to parse signature.json."),
        (b" " * (1 << 20) + b"{}", 500, "Failed to parse signature.json."),
    ],
)
def test_manifests(tmp_path: Path, manifest: object, status: int, message: str) -> None:
    error = refusal(war(tmp_path / "w.war", manifest))
    assert error.body() == {"code": status, "type": "InvalidWorkflowException", "message": message}


@pytest.mark.parametrize("name", ["../w.yaml", "/etc/passwd", "missing.yaml", "a\0b", "x" * 5000, "."])
def test_a_specification_outside_the_archive(tmp_path: Path, name: str) -> None:
    manifest = {**MANIFEST, "workflow": {**MANIFEST["workflow"], "specFile": name}}
    (tmp_path / "w.yaml").write_text(SPEC)
    error = refusal(war(tmp_path / "w.war", manifest))
    assert error.message == f"The file that the manifest names is not in the archive: {name}"


def test_the_handler_file_must_exist_if_a_node_is_a_function(tmp_path: Path) -> None:
    assert "h.py" in refusal(war(tmp_path / "a", handler=None)).message
    only_models = "models:\n  m: {url: m.mar}\ndag:\n  m: []\n"
    assert open_workflow(war(tmp_path / "b", spec=only_models, handler=None), tmp_path / "out").handler == ""


def test_the_handler_may_be_named_as_a_module(tmp_path: Path) -> None:
    manifest = {**MANIFEST, "workflow": {**MANIFEST["workflow"], "handler": "h"}}
    assert open_workflow(war(tmp_path / "w", manifest), tmp_path / "out").handler == "h.py"


@pytest.mark.parametrize("spec", ["a: [", b"\xff\xfe", "models: !!python/object:os.x {}"])
def test_unparsable_specifications(tmp_path: Path, spec: str | bytes) -> None:
    error = refusal(war(tmp_path / "w", spec=spec))
    assert (error.code, error.message) == (500, "Failed to parse yaml.")


def test_no_archive(tmp_path: Path) -> None:
    (tmp_path / "w.war").write_bytes(b"PK\x03\x04 and then nothing")
    assert refusal(tmp_path / "w.war").status == 500


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.sampled_from(["w.yaml", "h.py"]),
    lambda inner: (
        st.lists(inner, max_size=2)
        | st.dictionaries(st.sampled_from(["workflowName", "specFile", "handler", "x"]), inner, max_size=4)
    ),
)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=60)
@given(
    manifest=st.fixed_dictionaries(
        {}, optional=dict.fromkeys(("workflow", "createdOn", "archiverVersion"), JSON)
    )
)
def test_any_manifest_opens_or_is_refused(tmp_path: Path, manifest: dict[str, object]) -> None:
    path = war(tmp_path / "w.war", manifest)
    out = tmp_path / "out"
    try:
        open_workflow(path, out)
    except InvalidWorkflowError:
        assert not out.exists()
    else:
        out.rename(tmp_path / f"opened-{len(list(tmp_path.iterdir()))}")
