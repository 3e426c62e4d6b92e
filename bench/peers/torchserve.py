"""TorchServe: the bytes workloads as the workflows they are, batch size and workers aside."""

from __future__ import annotations

import os
import shutil
from typing import TYPE_CHECKING

import yaml

from bench.peers.base import MODELS, Launch, Peer, Task, post
from bench.serve import free_ports
from wfserve.archive.pack import WorkflowArchiveOptions, pack_workflow

if TYPE_CHECKING:
    from pathlib import Path

_APIS = ("management", "metrics")
_PORTS = ("grpc_inference_port", "grpc_management_port", "initial_worker_port")
_QUIET = '<Configuration><Loggers><Root level="error"/></Loggers></Configuration>'  # it logs each request
_FLAGS = ("--start", "--foreground", "--ncs", "--disable-token-auth", "--enable-model-api")


class TorchServe(Peer):
    """It runs on Java."""

    name = "torchserve"
    requirements = (
        "torchserve==0.12.0",
        "torch-model-archiver",
        "torch-workflow-archiver",
        "pyyaml",
        "setuptools",
    )
    ways = ("workflow",)

    def __init__(self) -> None:
        self._management: dict[int, int] = {}  # its port, by that for requests

    def lacks(self) -> str | None:
        """It needs Java."""
        return None if shutil.which("java") else "Java is not installed (on Debian: openjdk-17-jre-headless)"

    def refuses(self, way: str, workload: str) -> str | None:
        """Its workflows pass bytes."""
        return None if workload.endswith("-bytes") else "passes bytes only"

    def launch(self, python: Path, task: Task) -> Launch:
        """Return how its server is started, with the archive in a workflow store of its own."""
        _pack(task)
        management, metrics, *others = free_ports(len(_APIS) + len(_PORTS))
        self._management[task.port] = management
        addresses = {"inference": task.port, "management": management, "metrics": metrics}
        lines = [f"{api}_address=http://127.0.0.1:{port}" for api, port in addresses.items()]
        lines += [f"{key}={port}" for key, port in zip(_PORTS, others, strict=True)]
        config = task.scratch / "config.properties"
        config.write_text("\n".join([*lines, ""]))
        stores = ["--model-store", str(task.store), "--workflow-store", str(task.scratch)]
        log = task.scratch / "log4j2.xml"
        log.write_text(_QUIET)
        files = ["--ts-config", str(config), "--log-config", str(log)]
        command = [str(python.with_name("torchserve")), *_FLAGS, *stores, *files]
        return Launch(command, f"/wfpredict/{task.workload}", _environ(python, task.scratch))

    def register(self, task: Task) -> None:
        """Register the workflow. Raises `OSError` while the server is not up."""
        post(self._management[task.port], f"/workflows?url={task.workload}.war", b"")


def _pack(task: Task) -> None:
    """Write the workload's archive, in the task's setting, into the task's directory."""
    spec = yaml.safe_load((MODELS / f"{task.workload}.yaml").read_text())
    setting = task.setting
    spec["models"] |= {
        "min-workers": setting.workers,
        "max-workers": setting.workers,
        "batch-size": setting.batch,
    }
    changed = task.scratch / "spec.yaml"
    changed.write_text(yaml.safe_dump(spec, sort_keys=False))
    functions = MODELS / "functions_bytes.py"
    pack_workflow(WorkflowArchiveOptions(task.workload, changed, functions, export_path=task.scratch))


def _environ(python: Path, scratch: Path) -> dict[str, str]:
    """It starts `python` and `java` from the path; logs and extracted archives go where it is told."""
    path = f"{python.parent}{os.pathsep}{os.environ['PATH']}"
    where = ("TMPDIR", "TEMP", "LOG_LOCATION", "METRICS_LOCATION")
    return {"PATH": path} | dict.fromkeys(where, str(scratch))
