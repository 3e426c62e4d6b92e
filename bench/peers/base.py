"""A peer serves one workload at a time, in one setting, from a virtual environment of its own.

`Peer` is the contract; each module beside this one fulfils it for one system. What the peers compute is in
`apps/work.py`, so that no two of them compute anything different.
"""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.request import Request, urlopen

from bench.load import CONTENT_TYPE
from bench.workloads import build, net

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

APPS = Path(__file__).resolve().parent / "apps"
MODELS = Path(build.__file__).resolve().parent  # where the networks' classes are
WORKLOADS = (*build.NAMES, net.NAME)
PATIENCE = 30.0  # seconds for one answer


@dataclass(frozen=True, slots=True)
class Setting:
    """What is tried to find a peer's best."""

    batch: int  # requests in one call, at most
    workers: int  # processes with the model

    def __str__(self) -> str:
        batch = f"batch {self.batch}" if self.batch > 1 else "unbatched"
        return f"{batch}, {self.workers} worker{'s' * (self.workers > 1)}"


SETTINGS = tuple(Setting(batch, workers) for batch in (1, 8, 32) for workers in (1, 2))


@dataclass(frozen=True, slots=True)
class Task:
    """What a peer is to do: a workload, in one way of its `ways`, in one setting."""

    way: str
    workload: str
    setting: Setting
    store: Path  # with the workloads' archives, weights and bodies
    scratch: Path  # an empty directory, for this task alone
    port: int  # on loopback


@dataclass(frozen=True, slots=True)
class Launch:
    """How a task is started."""

    command: Sequence[str]
    path: str  # of the URL that takes the requests
    environ: Mapping[str, str] = field(default_factory=dict)  # besides what there is


class Peer(ABC):
    """A system that is measured beside wfserve."""

    name: str
    requirements: tuple[
        str, ...
    ]  # besides torch and numpy, as pip takes them; the first one is the peer itself
    ways: tuple[str, ...]  # in which it can do the work: each has rows of its own

    @abstractmethod
    def launch(self, python: Path, task: Task) -> Launch:
        """Return how `task` is started by the environment's interpreter; may write into `task.scratch`."""

    def lacks(self) -> str | None:
        """Return what this machine has to have and has not."""
        return None

    @abstractmethod
    def refuses(self, way: str, workload: str) -> str | None:
        """Return why it cannot do the work of `workload` that way; None: it can."""

    def register(self, task: Task) -> None:  # noqa: B027 - most need nothing
        """Do what a server needs once it listens. Raises `OSError` while it cannot be done yet."""

    def body(self, workload: str, store: Path) -> Path:
        """Return the file with the request body it takes."""
        return body(workload, store)

    def is_right(self, workload: str, answer: bytes, store: Path) -> bool:
        """Tell whether `answer` is what the workload computes."""
        return is_right(workload, answer, store)


def body(workload: str, store: Path) -> Path:
    """Return the file with the request body of `workload`."""
    return build.body(workload, store)


def is_right(workload: str, answer: bytes, store: Path) -> bool:
    """Tell whether `answer` is what `workload` computes from its body."""
    if workload == net.NAME:
        return net.is_right(answer, store)
    return build.is_right(workload, answer, store)


def native_of(workload: str) -> str:
    """Return the workload with the same work whose nodes pass tensors."""
    return workload.replace("-bytes", "-native")


def build_all(store: Path) -> None:
    """Write all archives, weights and bodies into `store`, which exists."""
    build.build(store)
    net.build(store)


def post(port: int, path: str, content: bytes) -> bytes:
    """Return the answer to a request. Raises `OSError`, also for an error status."""
    request = Request(
        f"http://127.0.0.1:{port}{path}", content, {"Content-Type": CONTENT_TYPE}, method="POST"
    )
    with urlopen(request, timeout=PATIENCE) as response:
        answer: bytes = response.read()
    return answer


def as_json(task: Task) -> str:
    """Return what an app has to know of `task`."""
    known = {
        "way": task.way,
        "workload": native_of(task.workload),
        "store": str(task.store),
        "port": task.port,
    }
    return json.dumps(known | {"batch": task.setting.batch, "workers": task.setting.workers})
