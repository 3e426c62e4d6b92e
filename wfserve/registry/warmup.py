"""A version is served only after it has answered the samples that its archive brings, else its workflow's.

A sample of an archive is a file of its directory `warm-up`: the body of a request, its content type by its
name.
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING, NamedTuple

import orjson
import trio

from wfserve.archive.war import SAMPLES
from wfserve.dag.walk import Request
from wfserve.errors import WfserveError, WorkflowError
from wfserve.transport.frame import Kind
from wfserve.transport.publish import publish

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from wfserve.registry.workflow import Workflow
    from wfserve.transport.base import Arena

MOST_BYTES = 64 << 20  # of one sample
_TYPES = {".npy": "application/x-npy", ".safetensors": "application/safetensors", ".json": "application/json"}


class Trial(NamedTuple):
    """A request to try a version with."""

    what: str  # for whoever reads why it failed
    body: Path
    headers: Mapping[str, str]


async def trials_of(workflow: Workflow) -> list[Trial]:
    """Return the samples that the archive of `workflow` has brought along."""
    return await trio.to_thread.run_sync(_brought, workflow.blueprint.archive.directory / SAMPLES)


def _brought(directory: Path) -> list[Trial]:
    files = sorted(path for path in directory.glob("*") if path.is_file())
    return [Trial(f"{SAMPLES}/{file.name}", file, {"content-type": _type_of(file)}) for file in files]


def _type_of(file: Path) -> str:
    return _TYPES.get(file.suffix) or mimetypes.guess_type(file.name)[0] or "application/octet-stream"


async def warm_up(workflow: Workflow, arena: Arena, trial: Trial) -> None:
    """Have `workflow` answer `trial`. Raises `WorkflowError` if it fails."""
    try:
        await answer(workflow, arena, trial)
    except WfserveError as error:
        raise WorkflowError(
            f"Version {workflow.version} of workflow {workflow.name} has failed its warm-up with "
            f"{trial.what}: {error.message}"
        ) from error


async def answer(workflow: Workflow, arena: Arena, trial: Trial) -> None:
    """Have `workflow` answer `trial`; what it answers is dropped. Raises as `Workflow.predict` does."""
    answered = await workflow.predict(await _request(trial, arena))
    if answered is not None:
        answered.release()


async def _request(trial: Trial, arena: Arena) -> Request:
    body = await trio.to_thread.run_sync(_read, trial)
    published = publish(arena, orjson.dumps(list(trial.headers.items())), Kind.JSON)
    try:
        return Request(published, publish(arena, body))
    except BaseException:
        published.release()
        raise


def _read(trial: Trial) -> bytes:
    try:
        if trial.body.stat().st_size > MOST_BYTES:
            raise WorkflowError(f"It is over {MOST_BYTES} bytes.", code=400)
        return trial.body.read_bytes()
    except OSError as error:
        raise WorkflowError(f"It cannot be read: {error.strerror}") from None
