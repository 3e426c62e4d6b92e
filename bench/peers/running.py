"""Of what a `Service` started, nothing is left when its block is left, nor when this process is killed.

A keeper (`keeper.py`) stands between: it owns all that the peer starts.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Self
from urllib.error import HTTPError

from bench.peers.base import MODELS, post

if TYPE_CHECKING:
    from bench.peers.base import Peer, Task

ROOT = Path(__file__).resolve().parents[2]
START = 120.0  # seconds until it has to answer


class ServiceError(Exception):
    """A service that does not start, or whose answer is wrong; its text is one line."""


class Service:
    """A context: a peer that has begun to answer rightly to its task."""

    def __init__(self, peer: Peer, python: Path, task: Task) -> None:
        self.peer = peer
        self.task = task
        self.launch = peer.launch(python, task)
        self.log = task.scratch / "service.log"

    def __enter__(self) -> Self:
        keeper = [sys.executable, "-m", "bench.peers.keeper"]
        path = f"{ROOT}{os.pathsep}{MODELS}"
        environ = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": path} | dict(self.launch.environ)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*keeper, *self.launch.command],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.task.scratch,
                env=environ,
                start_new_session=True,  # what kills this process's group must not kill the keeper
            )
        try:
            self._wait()
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.process.terminate()
        self.process.wait()

    def _wait(self) -> None:
        """Return once an answer is right. Raises `ServiceError`."""
        deadline = time.monotonic() + START
        registered = False
        while True:
            try:
                if not registered:
                    self.peer.register(self.task)
                    registered = True
                return self.check()
            except OSError as error:
                self._check_alive(deadline, error)
            time.sleep(0.1)

    def check(self) -> None:
        """Ask once. Raises `OSError` without an answer, `ServiceError` if it is not what it should be."""
        workload, store = self.task.workload, self.task.store
        answer = post(self.task.port, self.launch.path, self.peer.body(workload, store).read_bytes())
        if not self.peer.is_right(workload, answer, store):
            raise ServiceError(f"answers wrongly: {answer[:60]!r}")

    def _check_alive(self, deadline: float, error: OSError) -> None:
        if self.process.poll() is not None:
            lines = self.log.read_text(errors="replace").strip().splitlines()
            raise ServiceError(f"does not start: {lines[-1][:200] if lines else 'no output'}")
        if time.monotonic() > deadline:
            said = error.read()[:200] if isinstance(error, HTTPError) else b""
            raise ServiceError(f"does not answer: {error} {said.decode(errors='replace')}".rstrip())
