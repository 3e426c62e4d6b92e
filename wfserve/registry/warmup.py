"""A version is served only after it has answered the samples that its archive brings along.

A sample is a file of the archive's directory `warm-up`: a body of a request, its content type by its name.
"""

from __future__ import annotations

import mimetypes
from typing import TYPE_CHECKING

import orjson
import trio

from wfserve.archive.war import SAMPLES
from wfserve.dag.walk import Request
from wfserve.errors import WfserveError, WorkflowError
from wfserve.transport.frame import Kind
from wfserve.transport.publish import publish

if TYPE_CHECKING:
    from pathlib import Path

    from wfserve.registry.workflow import Workflow
    from wfserve.transport.base import Arena

MOST_BYTES = 64 << 20  # of one sample
_TYPES = {".npy": "application/x-npy", ".safetensors": "application/safetensors", ".json": "application/json"}


async def answer_samples(workflow: Workflow, arena: Arena) -> None:
    """Have `workflow` answer its samples one after the other. Raises `WorkflowError` for one that fails."""
    for sample in await trio.to_thread.run_sync(_samples, workflow.blueprint.archive.directory / SAMPLES):
        try:
            answer = await workflow.predict(await _request(sample, arena))
        except WfserveError as error:
            raise WorkflowError(
                f"Version {workflow.version} of workflow {workflow.name} has failed its warm-up with "
                f"{SAMPLES}/{sample.name}: {error.message}"
            ) from error
        if answer is not None:
            answer.release()


def _samples(directory: Path) -> list[Path]:
    return sorted(path for path in directory.glob("*") if path.is_file())


async def _request(sample: Path, arena: Arena) -> Request:
    body = await trio.to_thread.run_sync(_read, sample)
    content_type = _TYPES.get(sample.suffix) or mimetypes.guess_type(sample.name)[0]
    headers = [("content-type", content_type or "application/octet-stream")]
    published = publish(arena, orjson.dumps(headers), Kind.JSON)
    try:
        return Request(published, publish(arena, body))
    except BaseException:
        published.release()
        raise


def _read(sample: Path) -> bytes:
    if sample.stat().st_size > MOST_BYTES:
        raise WorkflowError(f"The sample {SAMPLES}/{sample.name} is over {MOST_BYTES} bytes.", code=400)
    return sample.read_bytes()
