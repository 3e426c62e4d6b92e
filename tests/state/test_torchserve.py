"""What snapshots of TorchServe say of models is read, in the words of its files."""

import json

import pytest

from wfserve.errors import ConfigError
from wfserve.state.torchserve import SnapshotModel, read_torchserve_snapshot

STATE = {
    "defaultVersion": True,
    "marName": "noop.mar",
    "minWorkers": 1,
    "maxWorkers": 2,
    "batchSize": 3,
    "maxBatchDelay": 100,
    "responseTimeout": 120,
    "runtimeType": "python",
}


def snapshot(path, models):
    """Write a file as Java writes properties."""
    text = json.dumps({"name": "one.cfg", "modelCount": 2, "created": 1, "models": models}, indent=2)
    escaped = text.replace("\\", "\\\\").replace("\n", "\\n").replace(":", "\\:")
    path.write_text(
        f"#Saving snapshot\ninference_address=http\\://127.0.0.1\\:8080\nmodel_snapshot={escaped}\n"
    )
    return path


def test_names_versions_and_defaults(tmp_path):
    older = STATE | {"defaultVersion": False, "responseTimeout": None}
    path = snapshot(tmp_path / "one.cfg", {"noop": {"1.11": STATE, "1.0": older}})
    assert read_torchserve_snapshot(path) == (
        SnapshotModel("noop", "1.0", False, "noop.mar", 1, 2, 3, 100, None, None),
        SnapshotModel("noop", "1.11", True, "noop.mar", 1, 2, 3, 100, 120, None),
    )


def test_a_configuration_without_models(tmp_path):
    path = tmp_path / "config.properties"
    path.write_text("inference_address=http://127.0.0.1:8080\n")
    with pytest.raises(ConfigError, match="is no snapshot of TorchServe: it has no model_snapshot"):
        read_torchserve_snapshot(path)


def test_of_a_server_of_workflows_alone(tmp_path):
    """Their nodes are left out when a snapshot is written."""
    assert read_torchserve_snapshot(snapshot(tmp_path / "one.cfg", {})) == ()


@pytest.mark.parametrize(
    ("models", "told"),
    [
        (None, "models is not an object"),
        ({"noop": []}, "noop is not an object"),
        ({"noop": {"1.0": 1}}, "version 1.0 of noop is not an object"),
        ({"noop": {"1.0": STATE | {"marName": None}}}, "has no marName"),
        ({"noop": {"1.0": STATE | {"minWorkers": True}}}, "minWorkers is not a whole number"),
        ({"noop": {"1.0": STATE | {"responseTimeout": "120"}}}, "responseTimeout is not a whole number"),
    ],
)
def test_what_is_no_snapshot(tmp_path, models, told):
    with pytest.raises(ConfigError, match=told):
        read_torchserve_snapshot(snapshot(tmp_path / "one.cfg", models))


def test_what_is_no_json(tmp_path):
    path = tmp_path / "one.cfg"
    path.write_text("model_snapshot={\n")
    with pytest.raises(ConfigError, match="model_snapshot is not a snapshot: not JSON"):
        read_torchserve_snapshot(path)
