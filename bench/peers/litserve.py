"""LitServe: FastAPI processes, and workers behind queues, in one stage."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import TYPE_CHECKING

from bench.peers.base import APPS, Launch, Peer, Task, as_json, body

if TYPE_CHECKING:
    from pathlib import Path


class LitServe(Peer):
    """One stage that does everything, as its documentation has it, over either of its queues."""

    name = "litserve"
    requirements = ("litserve",)
    ways = ("one stage", "fast queue")

    def refuses(self, way: str, workload: str) -> str | None:
        """It has no stages, and takes no bytes: JSON only."""
        return "no stages that could pass bytes" if workload.endswith("-bytes") else None

    def launch(self, python: Path, task: Task) -> Launch:
        """Return how its server is started."""
        return Launch([str(python), str(APPS / "litserve_app.py")], "/predict", {"PEER_TASK": as_json(task)})

    def body(self, workload: str, store: Path) -> Path:
        """Return the file with the body as JSON."""
        file = body(workload, store).with_suffix(".base64.json")
        if not file.exists():
            file.write_text(json.dumps(b64encode(body(workload, store).read_bytes()).decode()))
        return file
