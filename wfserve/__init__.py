"""wfserve serves workflows: a DAG of PyTorch models and Python functions behind TorchServe's REST API."""

import sys

from wfserve import compiled

__version__ = "0.1.0"

if not sys.platform.startswith("linux"):
    raise ImportError(f"wfserve runs on Linux only (memfd, futex and pidfd); this is {sys.platform}")

compiled.install(__path__)
