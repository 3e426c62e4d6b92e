"""What a server starts with: every version that its state has, and what its configuration names.

An archive in the store is served as it is there now, or as it was kept if that cannot be; one with another
URL, or a model of a snapshot, is registered once. All load side by side, in the background.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import trio

from wfserve.registry.claims import PresentError
from wfserve.registry.loading import Named, failure_logged
from wfserve.registry.lone import missing, register_models
from wfserve.state.store import Author

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from wfserve.registry.catalogue import Registry
    from wfserve.state.records import Version
    from wfserve.state.torchserve import SnapshotModel

AT_START = Author("load_workflows")


def load(registry: Registry, urls: Iterable[str] = (), models: Iterable[SnapshotModel] = ()) -> None:
    """Start what the state has, and what `urls` and `models` name; `registry.loaded` tells when.

    A URL may be `name=archive`, which gives it another name.
    """
    named = [Named.read(url) for url in urls]
    records = registry.state.workflows.values()
    kept = [(record.name, each) for record in records for each in record.versions]
    fresh = [each for each in named if each.in_store or not any(each.means(*one) for one in kept)]
    again = [one for one in kept if any(each.means(*one) for each in fresh)]
    for one in kept:
        if one not in again:
            registry.loads.start_soon(registry.restore, *one)
    if fresh:
        registry.loads.start_soon(_register_all, registry, fresh, again)
    for versions in missing(models, {(name, version.version) for name, version in kept}):
        registry.loads.start_soon(register_models, registry, versions)


async def _register_all(
    registry: Registry, named: Sequence[Named], kept: Sequence[tuple[str, Version]]
) -> None:
    """Register what is named; those of `kept` that are not among it are restored."""
    async with trio.open_nursery() as nursery:
        for each in named:
            nursery.start_soon(_register, registry, each, any(each.means(*one) for one in kept))
    async with trio.open_nursery() as nursery:
        for name, version in kept:
            if not registry.runs(name, version.version):
                nursery.start_soon(registry.restore, name, version)


async def _register(registry: Registry, named: Named, is_kept: bool) -> None:
    with failure_logged(str(named)):
        try:
            workflow = await registry.register(named.url, named.name, again=True, author=AT_START)
            workflow.loaded_at_startup = True
        except Exception as error:
            if not (is_kept or isinstance(error, PresentError)):
                registry.failed_to_load.append(str(named))
            raise
