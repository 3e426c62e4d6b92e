"""A workload on LitServe: one stage. It takes JSON only, so that a body travels as base64 in a string.

litserve_app.py     with its task in PEER_TASK, as JSON
"""

from __future__ import annotations

import json
import os
from base64 import b64decode
from pathlib import Path
from typing import Any

import litserve
import work
from fastapi import Response

TASK = json.loads(os.environ["PEER_TASK"])
WAIT = 0.001  # seconds for a batch to fill


class Api(litserve.LitAPI):
    """The whole work."""

    def setup(self, device: str) -> None:
        """Load the work."""
        self.work = work.load(TASK["workload"], Path(TASK["store"]))

    def decode_request(self, request):  # an annotation would make it a query parameter
        """Return the body."""
        return b64decode(request)

    def batch(self, inputs: list[bytes]) -> list[bytes]:
        """Leave a batch as it is."""
        return inputs

    def unbatch(self, output: list[bytes]) -> list[bytes]:
        """Leave a batch as it is."""
        return output

    def predict(self, x: Any) -> Any:
        """Return the answers to a batch of bodies, or the one where there are no batches."""
        return self.work.answers(x) if TASK["batch"] > 1 else self.work.answers([x])[0]

    def encode_response(self, output: bytes) -> Response:
        """Return the response."""
        return Response(output, media_type="application/octet-stream")


def main() -> None:
    """Serve until told to stop."""
    batches = {"max_batch_size": TASK["batch"], "batch_timeout": WAIT} if TASK["batch"] > 1 else {}
    server = litserve.LitServer(
        Api(**batches),
        accelerator="cpu",
        devices=1,
        workers_per_device=TASK["workers"],
        fast_queue=TASK["way"] == "fast queue",
    )
    server.run(
        host="127.0.0.1", port=TASK["port"], num_api_servers=1, generate_client_file=False, log_level="error"
    )


if __name__ == "__main__":
    main()
