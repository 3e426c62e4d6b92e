"""KServe's V1 protocol: instances are answered with predictions, or with explanations if a header asks.

https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/
"""

from __future__ import annotations

from typing import Any

from .base import InstancesEnvelope


class KServeEnvelope(InstancesEnvelope):
    """Answers with an object."""

    def response(self, index: int, results: Any, repeated: Any) -> dict[str, Any]:
        """Return the predictions of one request, or its explanations."""
        explains = self.context.get_request_header(index, "explain") == "True"
        return {"explanations" if explains else "predictions": results}
