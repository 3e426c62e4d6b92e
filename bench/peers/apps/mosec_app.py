"""A workload on mosec: in three stages, as a workflow has it, or fused by hand into one.

    mosec_app.py --port PORT ...     with its task in PEER_TASK, as JSON

mosec's own command line is parsed by mosec, also in its workers.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import work
from mosec import Server, Worker

TASK = json.loads(os.environ["PEER_TASK"])
WAIT = 1  # millisecond for a batch to fill: the least that mosec takes


def load() -> work.Work:
    """Return the task's work."""
    return work.load(TASK["workload"], Path(TASK["store"]))


class Raw(Worker):
    """Bytes in, bytes out."""

    resp_mime_type = "application/octet-stream"

    def deserialize(self, data: bytes) -> Any:
        """Return the body as it is."""
        return data

    def serialize(self, data: bytes) -> bytes:
        """Return the answer as it is."""
        return data


class First(Raw):
    """The function before the model."""

    def __init__(self) -> None:
        super().__init__()
        self.work = load()

    def forward(self, data: bytes) -> Any:
        """Return the array of a body."""
        return self.work.array(data)


class Model(Worker):
    """The model; mosec's stages are a line, so that branches run one after the other."""

    def __init__(self) -> None:
        super().__init__()
        self.work = load()

    def forward(self, data: Any) -> Any:
        """Return the results of a batch of arrays, or of one array where there are no batches."""
        if self.max_batch_size == 1:
            return self.work.results(data[None])[0]
        return self.work.results(work.stack(data))


class Last(Raw):
    """The function behind the model."""

    def __init__(self) -> None:
        super().__init__()
        self.work = load()

    def forward(self, data: Any) -> bytes:
        """Return the answer of one request."""
        return self.work.answer(*data)


class Whole(Raw):
    """All three in one worker."""

    def __init__(self) -> None:
        super().__init__()
        self.work = load()

    def forward(self, data: Any) -> Any:
        """Return the answers to a batch of bodies, or the one where there are no batches."""
        return self.work.answers([data])[0] if self.max_batch_size == 1 else self.work.answers(data)


def main() -> None:
    """Serve until told to stop."""
    server = Server()
    settings = {"num": TASK["workers"], "max_batch_size": TASK["batch"], "max_wait_time": WAIT}
    if TASK["way"] == "fused":
        server.append_worker(Whole, **settings)
    else:
        server.append_worker(First)
        server.append_worker(Model, **settings)
        server.append_worker(Last)
    server.run()


if __name__ == "__main__":
    main()
