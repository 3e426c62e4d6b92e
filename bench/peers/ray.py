"""Ray Serve: deployments that call one another, over actors."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.peers.base import APPS, Launch, Peer, Task, as_json

if TYPE_CHECKING:
    from pathlib import Path


class RayServe(Peer):
    """A deployment a node and one for HTTP is what a workflow is; one deployment is fused by hand."""

    name = "ray"
    requirements = ("ray[serve]",)
    ways = ("deployments", "one deployment")

    def refuses(self, way: str, workload: str) -> str | None:
        """Its deployments pass objects."""
        return "deployments pass objects, not bytes" if workload.endswith("-bytes") else None

    def launch(self, python: Path, task: Task) -> Launch:
        """Return how its server is started; Ray's sockets need a short path."""
        environ = {"PEER_TASK": as_json(task), "PEER_TEMP": str(task.scratch), "RAY_USAGE_STATS_ENABLED": "0"}
        return Launch([str(python), str(APPS / "ray_app.py")], "/", environ)
