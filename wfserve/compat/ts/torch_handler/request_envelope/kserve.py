"""KServe's V1 protocol: `{"instances": […]}` is answered `{"predictions": […]}`, or explanations.

https://kserve.github.io/website/latest/modelserving/data_plane/v1_protocol/
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from .base import BaseEnvelope, message, split

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


class KServeEnvelope(BaseEnvelope):
    """A row is an instance; requests of a batch are joined, and their results parted again."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._lengths: list[int] = []

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        """Return the instances of all requests."""
        requests = [message(row, "instances")["instances"] for row in data]
        self._lengths = [len(instances) for instances in requests]
        return [instance for instances in requests for instance in instances]

    def format_output(self, data: Any) -> list[dict[str, Any]]:
        """Return an object for each request."""
        explains = self.context.get_request_header(0, "explain") == "True"
        key = "explanations" if explains else "predictions"
        return [{key: part} for part in split(data, self._lengths)]
