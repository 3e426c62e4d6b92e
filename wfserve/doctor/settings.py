"""Each key of a configuration is used, meaningless, unknown or refused; what it names exists or is told."""

from __future__ import annotations

import errno
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

from wfserve.config.keys import MEANINGLESS, READ, SWITCHES, suggestion
from wfserve.config.sources import assemble, refuse_conflicts, texts_in_force
from wfserve.doctor.finding import Finding
from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wfserve.config import Address, Config

_STORES = ("workflow_store", "model_store")
_FILES = ("keystore", "private_key_file", "certificate_file", "metrics_config", "snapshot")
_MISSED = ("load_models", "models", "enable_model_api")


def examine_settings(path: Path, environ: Mapping[str, str]) -> tuple[Config, list[Finding]]:
    """Return the settings that can be used, and what is to be said of each. Raises `ConfigError`.

    `path` is the file, whatever `TS_CONFIG_FILE` in `environ` says.
    """
    texts = texts_in_force(path, {}, environ)
    refused = {key: reason for key in texts if (reason := _refusal(key, texts)) is not None}
    findings = [_key(key, refused.get(key)) for key in texts]
    config = assemble({key: text for key, text in texts.items() if key not in refused})
    faults = {found.subject: found for found in (*_conflicts(config), *_paths(config, texts))}
    return config, [found for found in findings if found.subject not in faults] + list(faults.values())


def _refusal(key: str, texts: Mapping[str, str]) -> str | None:
    if key not in READ:
        return None
    try:
        assemble({key: texts[key]})
    except ConfigError as error:
        return error.message.removeprefix(f"{key}: ")
    return None


def _key(key: str, refusal: str | None) -> Finding:
    if refusal is not None:
        return Finding("error", "setting", key, refusal)
    if key in READ or key in SWITCHES:
        return Finding("ok", "setting", key, "used")
    if key in MEANINGLESS:
        ignored = f"ignored: {MEANINGLESS[key]}"
        return Finding("warning" if key in _MISSED else "note", "setting", key, ignored)
    meant = suggestion(key)
    advice = f"did you mean {meant}?" if meant else "remove it"
    return Finding("warning", "setting", key, f"ignored: no key of TorchServe or wfserve; {advice}")


def _conflicts(config: Config) -> Iterator[Finding]:
    try:
        refuse_conflicts(config)
    except ConfigError as error:
        key, _, reason = error.message.partition(": ")
        yield Finding("error", "setting", key, reason)


def _paths(config: Config, texts: Mapping[str, str]) -> Iterator[Finding]:
    for key in _STORES:
        store: Path | None = getattr(config, key)
        if store is None:
            yield Finding("warning", "setting", key, "not set: archives are found by URLs only; set it")
        elif not store.is_dir():
            yield Finding("error", "setting", key, f"{store} is no directory; make it or correct the path")
    for key in _FILES:
        file: Path | None = getattr(config, key)
        if key in texts and file is not None and not file.is_file():
            yield Finding("error", "setting", key, f"{file} is no file; relative paths start in {Path.cwd()}")


def examine_addresses(config: Config) -> Iterator[Finding]:
    """Say of each address whether a server could listen there now."""
    for address in dict.fromkeys(map(config.address, config.apis)):
        try:
            _bind(address)
        except OSError as error:
            yield _unusable(address, error)
        else:
            yield Finding("ok", "address", str(address), "free")


def _unusable(address: Address, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        return Finding(
            "warning", "address", str(address), "in use: stop the server there before wfserve starts"
        )
    why = error.strerror or error
    return Finding("error", "address", str(address), f"no server can listen there: {why}; choose another")


def _bind(address: Address) -> None:
    """Listen at `address` for a moment. Raises `OSError` if that cannot be."""
    if address.path:
        _bind_path(Path(address.path))
        return
    found = socket.getaddrinfo(address.host, address.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, kind, protocol, _, where = found[0]
    with socket.socket(family, kind, protocol) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(where)


def _bind_path(path: Path) -> None:
    """Ask whether `path` could become a socket, without making it one."""
    if path.exists():
        raise OSError(errno.EADDRINUSE, os.strerror(errno.EADDRINUSE))
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise PermissionError(errno.EACCES, f"{path.parent} cannot be written to")
