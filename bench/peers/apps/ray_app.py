"""A workload on Ray Serve: a deployment a node of the workflow, or all in one.

ray_app.py     with its task in PEER_TASK, as JSON
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Any

import ray
import work
from ray import serve
from starlette.responses import Response

if TYPE_CHECKING:
    from ray.serve.handle import DeploymentHandle
    from starlette.requests import Request

TASK = json.loads(os.environ["PEER_TASK"])
WAIT = 0.001  # seconds for a batch to fill
ANSWERS = "application/octet-stream"


def load() -> work.Work:
    """Return the task's work."""
    return work.load(TASK["workload"], Path(TASK["store"]))


@serve.deployment
class First:
    """The function before the models."""

    def __init__(self) -> None:
        self.work = load()

    def __call__(self, body: bytes) -> Any:
        """Return the array of a body."""
        return self.work.array(body)


@serve.deployment(num_replicas=TASK["workers"])
class Model:
    """One branch."""

    def __init__(self, number: int) -> None:
        self.branch = load().branches[number]

    @serve.batch(max_batch_size=TASK["batch"], batch_wait_timeout_s=WAIT)
    async def batched(self, arrays: list[Any]) -> list[Any]:
        """Return the results of a batch of arrays."""
        return list(self.branch(work.stack(arrays)))

    async def __call__(self, array: Any) -> Any:
        """Return the result of one array."""
        return await self.batched(array) if TASK["batch"] > 1 else self.branch(array[None])[0]


@serve.deployment
class Last:
    """The function behind the models."""

    def __init__(self) -> None:
        self.work = load()

    def __call__(self, *results: Any) -> bytes:
        """Return the answer of one request."""
        return self.work.answer(*results)


@serve.deployment
class Ingress:
    """Where requests come in; results go from deployment to deployment, not through here."""

    def __init__(
        self, first: DeploymentHandle, models: list[DeploymentHandle], last: DeploymentHandle
    ) -> None:
        self.first, self.models, self.last = first, models, last

    async def __call__(self, request: Request) -> Response:
        """Walk the nodes."""
        array = self.first.remote(await request.body())
        results = [model.remote(array) for model in self.models]
        return Response(await self.last.remote(*results), media_type=ANSWERS)


@serve.deployment(num_replicas=TASK["workers"])
class Whole:
    """Everything in one deployment."""

    def __init__(self) -> None:
        self.work = load()

    @serve.batch(max_batch_size=TASK["batch"], batch_wait_timeout_s=WAIT)
    async def batched(self, bodies: list[bytes]) -> list[bytes]:
        """Return the answers to a batch of bodies."""
        return self.work.answers(bodies)

    async def __call__(self, request: Request) -> Response:
        """Answer one request."""
        body = await request.body()
        answer = await self.batched(body) if TASK["batch"] > 1 else self.work.answers([body])[0]
        return Response(answer, media_type=ANSWERS)


def application() -> Any:
    """Return what is deployed."""
    if TASK["way"] == "one deployment":
        return Whole.bind()
    branches = len(load().branches)
    return Ingress.bind(First.bind(), [Model.bind(number) for number in range(branches)], Last.bind())


def main() -> None:
    """Serve until told to stop."""
    ray.init(num_cpus=16, include_dashboard=False, logging_level="error", _temp_dir=os.environ["PEER_TEMP"])
    serve.start(http_options={"host": "127.0.0.1", "port": TASK["port"]})
    serve.run(application(), logging_config={"enable_access_log": False, "log_level": "ERROR"})
    asyncio.run(told_to_stop())
    ray.shutdown()


async def told_to_stop() -> None:
    """Return at the first SIGTERM."""
    told = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, told.set)
    await told.wait()


if __name__ == "__main__":
    main()
