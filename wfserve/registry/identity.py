"""An Identity is what a version is registered as: by what whoever registers it says, else by its archive."""

from __future__ import annotations

from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from wfserve.state.naming import check_name

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.archive.war import WorkflowArchive
    from wfserve.state.records import LiveSettings

DEFAULT_VERSION = "1.0"


class Identity(NamedTuple):
    """What a version of a workflow is registered as."""

    name: str
    version: str
    given: bool  # somebody named this version
    settings: Mapping[str, LiveSettings] = MappingProxyType({})  # in place of the archive's, by node


def identify(archive: WorkflowArchive, name: str | None = None, version: str | None = None) -> Identity:
    """Return what an archive is registered as, where the client may have said a name or a version.

    Raises `BadRequestError` if that can be no name.
    """
    said = version or archive.version
    return Identity(check_name(name or archive.name), said or DEFAULT_VERSION, said is not None)
