"""mosec: a Rust front end with Python workers in stages, a line of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers.base import APPS, Launch, Peer, Task, as_json, is_right, native_of

if TYPE_CHECKING:
    from pathlib import Path


class Mosec(Peer):
    """Staged is what a workflow is; fused is what an expert writes by hand instead of one."""

    name = "mosec"
    requirements = ("mosec",)
    ways = ("staged", "fused")

    def refuses(self, way: str, workload: str) -> str | None:
        """Its stages pass arrays; the bytes pair is compared with those, staged."""
        return "compared staged only" if way == "fused" and workload.endswith("-bytes") else None

    def launch(self, python: Path, task: Task) -> Launch:
        """Return how its server is started."""
        app = [str(python), str(APPS / "mosec_app.py")]
        address = ["--address", "127.0.0.1", "--port", str(task.port), "--path", str(task.scratch / "ipc")]
        return Launch([*app, *address, "--log-level", "error"], "/inference", {"PEER_TASK": as_json(task)})

    def is_right(self, workload: str, answer: bytes, store: Path) -> bool:
        """Tell whether `answer` is what the workload computes from arrays."""
        return is_right(native_of(workload), answer, store)
