"""The sample of a workflow is a request that its default has answered, and that new versions have to answer.

    given by a client ──────────────────────────────▶ the default answers it ──▶ state
    of the next client, once somebody asks for it ──▶ (again, with the headers that are kept)

Of a client's request only the body and the headers are kept that say how it is read.
"""

from __future__ import annotations

import logging
import math
from functools import partial
from typing import TYPE_CHECKING, Protocol

import orjson
import trio

from wfserve.errors import BadRequestError, WfserveError
from wfserve.registry.claims import SAMPLE
from wfserve.registry.warmup import MOST_BYTES, Trial, answer, trials_of, warm_up
from wfserve.state.files import StateError
from wfserve.state.records import SAMPLED, Sample
from wfserve.state.store import Author

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from wfserve.dag.walk import Request
    from wfserve.registry.catalogue import Registry
    from wfserve.registry.claims import Claims
    from wfserve.registry.workflow import Workflow
    from wfserve.state.contents import Transfer

    Commit = Callable[[str, Callable[[], object]], Awaitable[None]]

log = logging.getLogger(__name__)
RECORDER = Author("recorder")
REST = 10.0  # seconds after a request that could not be kept


class Recorder(Protocol):
    """Keeps requests that were answered."""

    def recording(self, workflow: Workflow, request: Request) -> Recording | None:
        """Return a copy of `request`, to keep once a default has answered it; None if it cannot be."""

    def record_soon(self, workflow: Workflow, body: bytes, headers: Mapping[str, str]) -> None:
        """Keep a request that was answered, unless another one is just being kept."""


class Recording:
    """A copy of one request while it is answered; let go when the block ends."""

    def __init__(self, samples: Recorder, workflow: Workflow, request: Request) -> None:
        self._samples = samples
        self._workflow = workflow
        self._request = request._replace(headers=request.headers.share(), body=request.body.share())

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self._request.headers.release()
        self._request.body.release()

    def answered(self) -> None:
        """Keep the request as the sample of its workflow, in the background."""
        pairs = orjson.loads(self._request.headers.borrow())
        headers = {name.lower(): value for name, value in pairs if name.lower() in SAMPLED}
        self._samples.record_soon(self._workflow, bytes(self._request.body.borrow()), headers)


class Samples:
    """The samples of one registry; `commit` makes a change to a workflow, tasks of `nursery` record."""

    def __init__(self, registry: Registry, claims: Claims, commit: Commit, nursery: trio.Nursery) -> None:
        self._registry = registry
        self._claims = claims
        self._commit = commit
        self._nursery = nursery
        self._resting: dict[str, float] = {}  # until when no request of a workflow is recorded (trio clock)

    async def keep(self, name: str, body: bytes, headers: Mapping[str, str], *, author: Author) -> None:
        """Keep a request, at most `MOST_BYTES` long, as the sample of a workflow.

        Raises `BadRequestError` if the default does not answer it, as `Registry.lookup` does, or
        `ConflictError`; then nothing has changed.
        """
        if len(body) > MOST_BYTES:
            raise BadRequestError(f"A sample has at most {MOST_BYTES} bytes.")
        await self._keep(self._registry.lookup(name), body, headers, author, recorded=False)

    async def await_next(self, name: str, *, author: Author) -> None:
        """Have the next request that the default answers be the sample. Raises as `remove` does."""
        self._registry.served(name)
        with self._claims.claim(name, SAMPLE):
            self._resting.pop(name, None)
            await self._commit(name, partial(self._registry.state.await_sample, author, name))

    async def remove(self, name: str, *, author: Author) -> None:
        """Forget a sample, or the wish for one.

        Raises `WorkflowNotFoundError`, `NotFoundError` if there is neither, or `ConflictError`.
        """
        self._registry.served(name)
        with self._claims.claim(name, SAMPLE):
            await self._commit(name, partial(self._registry.state.remove_sample, author, name))
        self._nursery.start_soon(self._registry.collect)

    async def warm_up(self, workflow: Workflow, *, is_new: bool) -> None:
        """Have a version answer what it brings along, if it `is_new`, else the sample of its workflow.

        What brings samples of its own has nothing to do with the workflow's. Raises `WorkflowError` if it
        fails.
        """
        brought = await trials_of(workflow)
        with self._registry.state.contents.transfer() as transfer:
            kept = [] if brought else await self._kept(workflow.name, transfer)
            for trial in [*(brought if is_new else ()), *kept]:
                await warm_up(workflow, self._registry.arena, trial)

    async def _kept(self, name: str, transfer: Transfer) -> list[Trial]:
        record = self._registry.state.workflows.get(name)
        if record is None or record.sample is None:
            return []
        transfer.hold(record.sample.body)  # before anything else can happen to it
        try:
            path = await trio.to_thread.run_sync(self._registry.state.contents.path, record.sample.body)
        except StateError as error:
            raise StateError(f"The sample of workflow {name} is lost, remove it: {error.message}") from error
        return [Trial(f"the sample of {name}", path, record.sample.headers)]

    def recording(self, workflow: Workflow, request: Request) -> Recording | None:
        """Return a copy of `request`, to keep once a default has answered it; None if it cannot be."""
        resting = trio.current_time() < self._resting.get(workflow.name, 0.0)
        return None if resting or request.body.nbytes > MOST_BYTES else Recording(self, workflow, request)

    def record_soon(self, workflow: Workflow, body: bytes, headers: Mapping[str, str]) -> None:
        """Keep a request that was answered, unless another one is just being kept."""
        if trio.current_time() >= self._resting.get(workflow.name, 0.0):
            self._resting[workflow.name] = math.inf
            self._nursery.start_soon(self._record, workflow, body, headers)

    async def _record(self, workflow: Workflow, body: bytes, headers: Mapping[str, str]) -> None:
        name = workflow.name
        try:
            await self._keep(workflow, body, headers, RECORDER, recorded=True)
        except WfserveError as error:
            log.warning("a request was not kept as the sample of workflow %s: %s", name, error.message)
            self._resting[name] = trio.current_time() + REST
        except Exception:  # whatever it is, those who are served are not concerned
            log.exception("a request was not kept as the sample of workflow %s", name)
            self._resting[name] = trio.current_time() + REST
        else:
            log.info("a request was kept as the sample of workflow %s", name)
            del self._resting[name]

    async def _keep(
        self, workflow: Workflow, body: bytes, headers: Mapping[str, str], author: Author, *, recorded: bool
    ) -> None:
        state, name = self._registry.state, workflow.name
        with self._claims.claim(name, SAMPLE), self._registry.transfer() as transfer:
            sample = Sample(await trio.to_thread.run_sync(transfer.write, body), headers)
            trial = Trial("a sample", state.contents.path(sample.body), headers)
            try:
                await answer(workflow, self._registry.arena, trial)
            except WfserveError as error:
                told = f"Version {workflow.version} of workflow {name} does not answer it: {error.message}"
                raise BadRequestError(told) from error
            await self._commit(name, partial(state.set_sample, author, name, sample, recorded=recorded))
