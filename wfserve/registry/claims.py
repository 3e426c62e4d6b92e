"""Of two changes to one workflow that contradict each other the first wins; the second is a 409."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING

from wfserve.errors import ConflictError

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

DEFAULT = "default"  # what answers requests that name no version; no version's name
SAMPLE = "sample"  # what new versions have to answer
WHOLE = "*"  # contradicts every other change


def of_nodes(version: str, nodes: Iterable[str]) -> list[str]:
    """Return the parts to claim while settings of `nodes` of a version change."""
    return [f"{version} {node}" for node in nodes]


class PresentError(ConflictError):
    """There is that version, from another URL perhaps (409)."""


class Claims:
    """What is being changed of each workflow: versions, nodes of them, `DEFAULT`, `SAMPLE`, or all."""

    def __init__(self) -> None:
        self._claimed: dict[str, set[str]] = {}

    @contextmanager
    def claim(self, name: str, *parts: str, refusal: str = "") -> Iterator[None]:
        """Change `parts` of the workflow `name` while the block runs.

        Raises `ConflictError`, with the text `refusal` if that is given, if another change is at it.
        """
        claimed = self._claimed.get(name, set())
        if claimed and (WHOLE in claimed or WHOLE in parts or not claimed.isdisjoint(parts)):
            raise ConflictError(refusal or f"Workflow {name} is being changed by another call.")
        self._claimed[name] = claimed | set(parts)
        try:
            yield
        finally:
            left = self._claimed[name] - set(parts)
            if left:
                self._claimed[name] = left
            else:
                del self._claimed[name]
