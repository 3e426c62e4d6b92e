"""The strongest source that gives a key decides it: TorchServe's variables, flags, ours, the file, defaults.

The file is that of `TS_CONFIG_FILE`, else of `--ts-config`, else `./config.properties`, as TorchServe looks
it up. `TS_*` variables count once the file says `enable_envvars_config=true`, and are stronger than flags, as
in TorchServe; `TS_ALLOWED_URLS` counts only with `use_env_allowed_urls=true` beside it. `WFSERVE_*` always
count.
"""

from __future__ import annotations

import dataclasses
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

from wfserve.config import readers
from wfserve.config.keys import (
    ALLOWED_URLS_VARIABLE_ON,
    MEANINGLESS,
    READ,
    SWITCHES,
    TORCHSERVES,
    VARIABLES_ON,
    suggestion,
    torchserve_variable,
)
from wfserve.config.properties import read_properties
from wfserve.config.settings import Config
from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_DEFAULT_STORE = Path("workflow_store")
_OWN_SENTENCE = ("load_models", "enable_model_api")  # what a user would miss first


def load(
    ts_config: Path | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Return the settings in force. `flags` holds the texts of given flags under their configuration keys.

    Raises `ConfigError` with one line that names the key and what is wrong with it.
    """
    environ = os.environ if environ is None else environ
    config = assemble(texts_in_force(_find_file(ts_config, environ), flags or {}, environ))
    refuse_conflicts(config)
    return config


def texts_in_force(path: Path | None, flags: Mapping[str, str], environ: Mapping[str, str]) -> dict[str, str]:
    """Return the text of every key that some source gives, `path` being the file. Raises `ConfigError`."""
    texts = {} if path is None else {k: _expand(v, environ) for k, v in read_properties(path).items()}
    texts |= {key: environ[name] for key in READ if (name := f"WFSERVE_{key.upper()}") in environ}
    texts |= flags
    if _is_on(VARIABLES_ON, texts):
        texts |= _torchserve_variables(environ, allowed_urls=_is_on(ALLOWED_URLS_VARIABLE_ON, texts))
    return texts


def assemble(texts: Mapping[str, str]) -> Config:
    """Return the complete settings that `texts` give. Raises `ConfigError` if one of them is wrong."""
    given = {key: text for key, text in texts.items() if key in READ and not _is_blank(key, text)}
    values = {READ[key].field or key: READ[key].read(key, text) for key, text in given.items()}
    unused = tuple(key for key in texts if key in MEANINGLESS)
    unknown = tuple(key for key in texts if key not in {*READ, *SWITCHES, *MEANINGLESS})
    return _complete(Config(**values, unused=unused, unknown=unknown))


def refuse_conflicts(config: Config) -> None:
    """Raise `ConfigError` if settings that are right by themselves must not stand together."""
    _refuse_open_management(config)
    _refuse_two_schemes(config)


def remarks(config: Config) -> Iterator[str]:
    """Yield what a server should log of its configuration when it starts: the keys without effect."""
    for key in _OWN_SENTENCE:
        if key in config.unused:
            yield f"the configuration's {key} is ignored: {MEANINGLESS[key]}"
    if others := [key for key in config.unused if key not in _OWN_SENTENCE]:
        yield f"keys of the configuration that mean nothing here and are ignored: {', '.join(others)}"
    for key in config.unknown:
        meant = suggestion(key)
        guess = f"; did you mean {meant}?" if meant else ""
        yield f"the configuration's {key!r} is not a key of TorchServe or wfserve and is ignored{guess}"


def _find_file(flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("TS_CONFIG_FILE"):
        return Path(named)
    if flag is not None:
        return flag
    default = Path("config.properties")
    return default if default.is_file() else None


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace `$$NAME$$` by the variable of that name, as TorchServe does."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ConfigError(f"the configuration names {match[0]}, and no such variable is set")
        return environ[match[1]]

    return re.sub(r"\$\$([^$]+)\$\$", value, text)


def _torchserve_variables(environ: Mapping[str, str], *, allowed_urls: bool) -> dict[str, str]:
    keys = [key for key in (*TORCHSERVES, *MEANINGLESS) if allowed_urls or key != "allowed_urls"]
    return {key: environ[name] for key in keys if (name := torchserve_variable(key)) in environ}


def _is_on(switch: str, texts: Mapping[str, str]) -> bool:
    return readers.flag(switch, texts.get(switch, "false"))


def _is_blank(key: str, text: str) -> bool:
    """Whether a path is given as nothing, which is as good as not given."""
    return READ[key].read is readers.path and not text.strip()


def _complete(config: Config) -> Config:
    workflow_store = config.workflow_store or config.model_store
    if workflow_store is None and _DEFAULT_STORE.is_dir():
        workflow_store = _DEFAULT_STORE.absolute()
    return dataclasses.replace(
        config,
        state_dir=config.state_dir.absolute(),
        key_file=config.key_file.absolute(),
        workflow_store=workflow_store,
        model_store=config.model_store or workflow_store,
        arena_size=config.arena_size or _machine_memory() // 4,
    )


def _refuse_open_management(config: Config) -> None:
    if not (config.is_local or config.tokens or config.insecure_management):
        open_to_all = next(a for api in config.apis if not (a := config.address(api)).is_loopback)
        raise ConfigError(
            f"disable_token_authorization: others can reach {open_to_all}, and who reaches the management "
            "API may run code here; leave tokens on, or start with --insecure-management"
        )


def _refuse_two_schemes(config: Config) -> None:
    """Refuse a port that would have to speak both plain HTTP and TLS."""
    schemes: dict[str, str] = {}
    for api in config.apis:
        address = config.address(api)
        if schemes.setdefault(address.bind, address.scheme) != address.scheme:
            raise ConfigError(f"{api}_address: {address.bind} cannot be both http and https")


def _machine_memory() -> int:
    """Return the bytes this process may use: the machine's, or its control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
