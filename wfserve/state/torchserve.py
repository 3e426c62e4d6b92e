"""A snapshot of TorchServe is read for what it says: the models that ran, never workflows or their nodes.

Those it leaves out when it writes one. It is a configuration as any other, in whose property `model_snapshot`
the models are, as JSON.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wfserve.config.properties import read_properties
from wfserve.errors import ConfigError
from wfserve.state.documents import DocumentError, decode

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

KEY = "model_snapshot"


@dataclass(frozen=True, slots=True)
class SnapshotModel:
    """One version of a model, as it ran."""

    name: str
    version: str
    is_default: bool
    archive: str  # the name of a file in the model store
    min_workers: int
    max_workers: int
    batch_size: int
    max_batch_delay_ms: int
    response_timeout: int | None  # seconds; old snapshots have none, as with the next
    startup_timeout: int | None


def read_torchserve_snapshot(path: Path) -> tuple[SnapshotModel, ...]:
    """Return the models of the snapshot at `path`. Raises `ConfigError`, also if it is a file without any."""
    text = read_properties(path).get(KEY)
    if text is None:
        raise ConfigError(f"{path} is no snapshot of TorchServe: it has no {KEY}")
    return models_in(text, str(path))


def models_in(text: str, where: str) -> tuple[SnapshotModel, ...]:
    """Return the models that a `model_snapshot` lists, by name and version. Raises `ConfigError`."""
    try:
        return tuple(_models(_object(decode(text), KEY)))
    except DocumentError as error:
        raise ConfigError(f"{where}: {KEY} is not a snapshot: {error.message}") from None


def _models(document: dict[str, Any]) -> Iterator[SnapshotModel]:
    for name, versions in sorted(_object(document.get("models"), "models").items()):
        for version, state in sorted(_object(versions, name).items()):
            yield _model(name, version, _object(state, f"version {version} of {name}"))


def _model(name: str, version: str, state: dict[str, Any]) -> SnapshotModel:
    archive = state.get("marName")
    if not isinstance(archive, str):
        raise DocumentError(f"version {version} of {name} has no marName")
    return SnapshotModel(
        name,
        version,
        is_default=state.get("defaultVersion") is True,
        archive=archive,
        min_workers=_number(state, "minWorkers"),
        max_workers=_number(state, "maxWorkers"),
        batch_size=_number(state, "batchSize"),
        max_batch_delay_ms=_number(state, "maxBatchDelay"),
        response_timeout=_number_or_none(state, "responseTimeout"),
        startup_timeout=_number_or_none(state, "startupTimeout"),
    )


def _object(value: object, what: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DocumentError(f"{what} is not an object")
    return value


def _number(state: dict[str, Any], key: str) -> int:
    value = state.get(key)
    if type(value) is not int:  # true is no number
        raise DocumentError(f"{key} is not a whole number")
    return value


def _number_or_none(state: dict[str, Any], key: str) -> int | None:
    return None if state.get(key) is None else _number(state, key)
