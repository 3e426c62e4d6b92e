"""The archives of a version come from where a client says, and are kept, or from what was kept: never both.

What has been kept is unpacked from the content store, so that a restart unpacks the very same bytes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import trio

from wfserve.archive.fetch import Fetcher, FetchPolicy
from wfserve.state.files import StateError
from wfserve.state.records import Version

if TYPE_CHECKING:
    from pathlib import Path

    from wfserve.archive.fetch import Fetched
    from wfserve.archive.spec import ModelSpec
    from wfserve.config import Config
    from wfserve.registry.prepare import Blueprint
    from wfserve.state.contents import Contents, Transfer
    from wfserve.state.records import Content


class Archives(Protocol):
    """Where the archives of one workflow are."""

    async def workflow(self) -> Path:
        """Return the file of the workflow archive. Raises the `WfserveError` that says why there is none."""

    async def model(self, spec: ModelSpec) -> Path:
        """Return the file, or directory, of the archive of a model; raises as `workflow` does."""


class Arriving:
    """Archives that a client names, each fetched and kept when it is asked for."""

    archive: Content  # as kept

    def __init__(self, url: str, sha256: str, config: Config, contents: Contents, transfer: Transfer) -> None:
        """`sha256` is what the workflow archive must have, if it is not empty."""
        self._url = url
        self._sha256 = sha256
        self._fetcher = Fetcher(_policy(config), contents.incoming)
        self._config = config
        self._contents = contents
        self._transfer = transfer
        self.models: dict[str, Content] = {}  # as kept, by node

    async def workflow(self) -> Path:
        """Fetch and keep the workflow archive."""
        fetched = await self._fetcher.workflow(self._url, self._config.workflow_store, self._sha256)
        self.archive = await self._kept(fetched)
        return self._contents.path(self.archive)

    async def model(self, spec: ModelSpec) -> Path:
        """Fetch and keep the archive of a model; a directory is kept as a zip of it."""
        fetched = await self._fetcher.model(spec.url, self._config.model_store, spec.sha256)
        self.models[spec.name] = content = await self._kept(fetched)
        return self._contents.path(content)

    async def _kept(self, fetched: Fetched) -> Content:
        if not fetched.downloaded:
            return await trio.to_thread.run_sync(self._transfer.put, fetched.path)
        try:
            return await trio.to_thread.run_sync(self._transfer.adopt, fetched.path)
        finally:
            fetched.path.unlink(missing_ok=True)  # it was not kept

    def version(self, blueprint: Blueprint, startup: float | None, response: float | None) -> Version:
        """Return the record of what was kept, started with timeouts of its own or without."""
        return Version(
            blueprint.version,
            self.archive,
            self._url,
            given=blueprint.given,
            startup_timeout=startup,
            response_timeout=response,
            models=self.models,
        )


class Stored:
    """Archives of a version that was registered before."""

    def __init__(self, contents: Contents, version: Version) -> None:
        self._contents = contents
        self._version = version

    async def workflow(self) -> Path:
        """Return the workflow archive."""
        return await trio.to_thread.run_sync(self._contents.path, self._version.archive)

    async def model(self, spec: ModelSpec) -> Path:
        """Return the archive of a model."""
        kept = self._version.models.get(spec.name)
        if kept is None:  # a snapshot is what somebody else wrote
            raise StateError(f"No archive was kept for the model {spec.name}.")
        return await trio.to_thread.run_sync(self._contents.path, kept)


def _policy(config: Config) -> FetchPolicy:
    return FetchPolicy(
        allowed_urls=config.allowed_urls,
        max_download_bytes=config.max_archive_size,
        timeout=config.response_timeout,
        stores=tuple(s for s in (config.workflow_store, config.model_store) if s is not None),
    )
