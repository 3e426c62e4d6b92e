"""What a blueprint says of a node comes from the specification, unless the model knows better."""

import pytest

from tests.archives import pack
from tests.registries import registry
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
    async with registry(config) as opened:
        plan = (await opened.register("w.war")).blueprint.nodes["m"]
        assert (plan.pool.min_workers, plan.stage.max_workers) == expected
        assert (plan.version, plan.stage.batch_size, plan.worker.name) == ("2.5", 4, "w__m")


def test_workflow_errors_list_every_node():
    raise_failures("w", [])
    with pytest.raises(WorkflowError, match=r"Workflow w has failed to register\. Failures: \[one, two\]"):
        raise_failures("w", ["one", "two"])
