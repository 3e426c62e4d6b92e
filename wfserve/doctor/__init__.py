"""A TorchServe installation is only looked at: nothing is written, run, downloaded or sent to anybody."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from wfserve.doctor.archives import Archives
from wfserve.doctor.finding import Finding
from wfserve.doctor.settings import examine_addresses, examine_settings

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["Finding", "examine"]


def examine(path: Path, environ: Mapping[str, str]) -> list[Finding]:
    """Return what will run of the installation that the properties file `path` describes, and what may not.

    Raises `ConfigError` if the file cannot be read, or its variables are not set.
    """
    config, findings = examine_settings(path, environ)
    findings += examine_addresses(config)
    archives = Archives(config)
    findings += archives.examine_start()
    findings += archives.examine()
    return [*findings, *_snapshots(environ)]


def _snapshots(environ: Mapping[str, str]) -> Iterator[Finding]:
    directory = Path(environ.get("LOG_LOCATION", "logs"), "config")
    if any(directory.glob("*.cfg")):
        what = (
            "the models of a snapshot of TorchServe are served if one of these files is named by --snapshot"
        )
        yield Finding("note", "snapshot", str(directory), what)
