"""A model that ran alone is a workflow of one node: both have its name, by which clients find it as before.

TorchServe's snapshots list such models. What is there already of them stays as it is.
"""

from __future__ import annotations

import io
import json
import zipfile
from functools import partial
from itertools import groupby
from typing import TYPE_CHECKING, Any

import trio

from wfserve import __version__
from wfserve.archive.extract import WORKFLOW_MANIFEST
from wfserve.registry.loading import failure_logged
from wfserve.registry.sources import Arriving
from wfserve.state.store import Author
from wfserve.state.torchserve import models_in, read_torchserve_snapshot

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable
    from pathlib import Path

    from wfserve.config import Config
    from wfserve.registry.catalogue import Registry
    from wfserve.state.contents import Contents, Transfer
    from wfserve.state.torchserve import SnapshotModel

AUTHOR = Author("TorchServe's snapshot")
SPEC = "workflow.yaml"
_CREATED = "01/01/1980 00:00:00"  # equal models make equal archives
_EPOCH = (1980, 1, 1, 0, 0, 0)


class LoneModel(Arriving):
    """The archive of a model in the store, and that of a workflow which is made for it."""

    def __init__(self, model: SnapshotModel, config: Config, contents: Contents, transfer: Transfer) -> None:
        super().__init__(model.archive, "", config, contents, transfer)
        self._made = packed(model)

    async def workflow(self) -> Path:
        """Keep the workflow archive."""
        self.archive = await trio.to_thread.run_sync(self._transfer.write, self._made)
        return self._contents.path(self.archive)


def packed(model: SnapshotModel) -> bytes:
    """Return a workflow archive with `model` as its only node."""
    workflow = {"workflowName": model.name, "specFile": SPEC}
    manifest = {"createdOn": _CREATED, "archiverVersion": __version__, "workflow": workflow}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        for name, content in ((WORKFLOW_MANIFEST, manifest), (SPEC, _spec(model))):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), json.dumps(content))  # which is YAML as well
    return file.getvalue()


def _spec(model: SnapshotModel) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "min-workers": model.min_workers,
        "max-workers": model.max_workers,
        "batch-size": model.batch_size,
        "max-batch-delay": model.max_batch_delay_ms,
        "retry-attempts": 0,  # a model alone was never tried again
    }
    if model.response_timeout:
        settings["timeout-ms"] = 1000 * model.response_timeout
    return {"models": {**settings, model.name: {"url": model.archive}}, "dag": {model.name: []}}


def models_of(config: Config) -> tuple[SnapshotModel, ...]:
    """Return the models of the snapshot that is configured, by name, defaults first. Raises `ConfigError`."""
    found = list(models_in(config.model_snapshot, "the configuration") if config.model_snapshot else ())
    if config.snapshot is not None:
        found += read_torchserve_snapshot(config.snapshot)
    return tuple(sorted(found, key=lambda each: (each.name, not each.is_default)))


def missing(models: Iterable[SnapshotModel], kept: Collection[tuple[str, str]]) -> list[list[SnapshotModel]]:
    """Return those of `models` that are not `kept`, by name and version; those of a name together."""
    left = (each for each in models if (each.name, each.version) not in kept)
    return [list(group) for _, group in groupby(left, key=lambda each: each.name)]


async def register_models(registry: Registry, models: Iterable[SnapshotModel]) -> None:
    """Register versions of one model, one after the other; one that fails is logged and told by `/ping`."""
    for model in models:
        what = f"{model.name} {model.version}"
        with failure_logged(what):
            try:
                await _register(registry, model)
            except Exception:
                registry.failed_to_load.append(what)
                raise


async def _register(registry: Registry, model: SnapshotModel) -> None:
    workflow = await registry.register(
        model.archive,
        model.name,
        model.version,
        again=True,
        startup_timeout=model.startup_timeout,
        response_timeout=model.response_timeout,
        archives=partial(LoneModel, model, registry.config, registry.state.contents),
        author=AUTHOR,
    )
    workflow.loaded_at_startup = True
