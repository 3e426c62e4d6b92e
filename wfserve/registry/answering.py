"""What answers requests: the workflows that are served, and what all of their requests share."""

from __future__ import annotations

from typing import TYPE_CHECKING

from wfserve.measure import definitions
from wfserve.measure.counts import ResponseCounts
from wfserve.registry.serving import Serving
from wfserve.registry.shadow import Shadows

if TYPE_CHECKING:
    import trio

    from wfserve.config import Config
    from wfserve.registry.samples import Recorder
    from wfserve.transport.base import Arena, Transport


class Answering(Serving):
    """The workflows that one process runs requests of, in tasks of `nursery` where no client waits."""

    samples: Recorder

    def __init__(self, config: Config, transport: Transport, nursery: trio.Nursery) -> None:
        """Serve nothing yet. Raises `ConfigError` if the definitions of metrics cannot be read."""
        super().__init__()
        self.config = config
        self.responses = ResponseCounts()
        self.definitions = definitions.load(config.metrics_config)
        self.shadows = Shadows(nursery)
        self._transport = transport
        self._nursery = nursery

    @property
    def arena(self) -> Arena:
        """Where request bodies are written."""
        return self._transport.arena

    @property
    def pinned(self) -> Arena | None:
        """Memory that GPUs copy from; None without GPUs."""
        return self._transport.pinned

    async def health(self) -> bool:
        """Return whether everything that is to be served is, with its workers."""
        raise NotImplementedError
