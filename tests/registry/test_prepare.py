"""What a blueprint says of a node comes from the specification, unless the model knows better."""

import hashlib
import json
import zipfile
from dataclasses import replace

import pytest

from tests.archives import pack
from tests.registries import predict, registry
from wfserve.archive.pack import ModelArchiveOptions, pack_model
from wfserve.errors import WorkflowError
from wfserve.registry.prepare import raise_failures


@pytest.mark.parametrize(
    ("model_config", "expected"),
    [
        ("minWorkers: 2\nmaxWorkers: 3", (2, 3)),
        ("minWorkers: 2\nmaxWorkers: 2", (2, 2)),
        ("minWorkers: 0\nmaxWorkers: 3", (1, 1)),
        ("minWorkers: 3\nmaxWorkers: 2", (1, 1)),
        ("minWorkers: 2", (1, 1)),
        ("minWorkers: two\nmaxWorkers: three", (1, 1)),
        ("minWorkers: true\nmaxWorkers: true", (1, 1)),
        ("batchSize: 32", (1, 1)),
    ],
)
async def test_worker_counts_of_the_model_win_if_they_make_sense(config, store, model_config, expected):
    pack_configured(store, model_config)
    async with registry(config) as opened:
        plan = (await opened.register("w.war")).blueprint.nodes["m"]
        assert (plan.stage.min_workers, plan.stage.max_workers) == expected
        assert (plan.version, plan.stage.batch_size, plan.worker.name) == ("2.5", 4, "w__m")


def pack_configured(store, model_config):
    """A workflow `w` of a function node and a model `m` with a configuration."""
    (store / "handler.py").write_text(
        "def handle(data, context):\n    return data and [r['body'] for r in data]\n"
    )
    (store / "model-config.yaml").write_text(model_config)
    pack_model(
        ModelArchiveOptions(
            "m", str(store / "handler.py"), "2.5", config_file=store / "model-config.yaml", export_path=store
        )
    )
    pack(
        store,
        "w",
        "models:\n  max-workers: 1\n  batch-size: 4\n  m: {url: m.mar}\ndag:\n  echo: [m]\n",
    )


@pytest.mark.parametrize(
    ("model_config", "registration", "expected"),
    [
        ("responseTimeout: 3\nstartupTimeout: 4\njobQueueSize: 5", (30, 40), (3, 4, 5)),
        ("minWorkers: 1", (30, 40), (30, 40, 100)),
        ("responseTimeout: 0\nstartupTimeout: -1\njobQueueSize: true", (30, 40), (30, 40, 100)),
        ("responseTimeout: soon", (None, None), (120, 30, 100)),
    ],
)
async def test_limits_of_the_model_win_over_those_of_the_registration(
    config, store, model_config, registration, expected
):
    pack_configured(store, model_config)
    config = replace(config, startup_timeout=30.0)
    response, startup = registration
    async with registry(config) as opened:
        workflow = await opened.register("w.war", response_timeout=response, startup_timeout=startup)
        model, function = workflow.blueprint.nodes["m"], workflow.blueprint.nodes["echo"]
        limits = model.response_timeout, model.stage.startup_timeout, model.stage.queue_size
        assert limits == expected
        assert model.stage.startup_timeout == model.stage.startup_timeout
        assert (function.response_timeout, function.stage.startup_timeout) == (response or 120, startup or 30)


HANDLERLESS = {"runtime": "python", "model": {"modelName": "m", "modelVersion": "3"}}


@pytest.mark.parametrize("manifest", [HANDLERLESS, None])
async def test_the_handler_of_a_model_that_names_none(config, store, manifest):
    pack_without_handler(store, manifest)
    async with registry(replace(config, default_service_handler="/opt/service.py:tell")) as opened:
        workflow = await opened.register("w.war")
        assert await predict(workflow, b"", opened) == f"w__m {manifest}"
        await opened.unregister("w")
    async with registry(config) as opened:
        with pytest.raises(WorkflowError, match=r"Failed to start workers for model w__m version"):
            await opened.register("w.war")


def pack_without_handler(store, manifest):
    """A workflow `w` of a model `m` that has a file for the server's default handler."""
    with zipfile.ZipFile(store / "m.mar", "w") as archive:
        code = "return data and [f'{context.model_name} {context.manifest}' for _ in data]"
        archive.writestr("service.py", f"def tell(data, context):\n    {code}\n")
        if manifest is not None:
            archive.writestr("MAR-INF/MANIFEST.json", json.dumps(manifest))
    pack(store, "w", "models:\n  m: {url: m.mar}\ndag:\n  m: []\n")


async def test_the_digest_of_a_model_is_checked(config, store):
    pack_configured(store, "{}")
    digest = hashlib.sha256((store / "m.mar").read_bytes()).hexdigest()
    spec = "models:\n  m: {{url: m.mar, sha256: {}}}\ndag:\n  m: []\n"
    pack(store, "right", spec.format(digest))
    pack(store, "wrong", spec.format("0" * 64))
    async with registry(config) as opened:
        await opened.register("right.war")
        with pytest.raises(WorkflowError, match=r"Details: Failed to download archive from: m\.mar"):
            await opened.register("wrong.war")


def test_workflow_errors_list_every_node():
    raise_failures("w", [])
    with pytest.raises(WorkflowError, match=r"Workflow w has failed to register\. Failures: \[one, two\]"):
        raise_failures("w", ["one", "two"])
