"""A Config is frozen and complete: every setting has a value, checked once, before anything starts.

Sources, strongest first: flags, `WFSERVE_*` variables, the properties file, defaults. The file is that of
`TS_CONFIG_FILE`, else of `--ts-config`, else `./config.properties`, as TorchServe looks it up. Keys of
TorchServe keep their names; those that mean nothing here are kept in `unused` and named in the log.
"""

from __future__ import annotations

import dataclasses
import ipaddress
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

LOOPBACK = "127.0.0.1"
Api = Literal["inference", "management", "metrics"]


class Address(NamedTuple):
    """Where one API listens."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"http://{self.bind}"

    @property
    def bind(self) -> str:
        """Return the address as a socket bind string."""
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


INFERENCE, MANAGEMENT, METRICS = (Address(LOOPBACK, port) for port in (8080, 8081, 8082))


@dataclass(frozen=True, slots=True)
class Config:
    """All settings. Times are seconds, sizes bytes."""

    inference_address: Address = INFERENCE
    management_address: Address = MANAGEMENT
    metrics_address: Address = METRICS
    workflow_store: Path | None = None
    model_store: Path | None = None
    load_workflows: tuple[str, ...] = ()
    allowed_urls: tuple[str, ...] = ()
    state_dir: Path = Path(".wfserve")  # absolute, as all paths, once `load` has completed it
    job_queue_size: int = 100  # requests that may wait for one node
    max_request_size: int = 6_553_500
    max_response_size: int = 6_553_500
    max_archive_size: int = 16 << 30  # of a download, and of an extracted archive
    arena_size: int = 0  # payload memory; 0 = a quarter of the machine's
    response_timeout: float = 120.0
    startup_timeout: float = 120.0  # of one worker, loading its model
    stop_timeout: float = 30.0  # for accepted requests, when the server is told to stop
    unregister_timeout: float = 120.0
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    insecure_management: bool = False  # whoever reaches the management API may run code here
    worker_threads: int = 0  # intra-op threads of a worker; 0 = cores shared among a workflow's workers
    unused: tuple[str, ...] = ()  # keys of the file that mean nothing here

    def address(self, api: Api) -> Address:
        """Return where `api` listens."""
        return {
            "inference": self.inference_address,
            "management": self.management_address,
            "metrics": self.metrics_address,
        }[api]

    def exposed(self, port: int) -> frozenset[Api]:
        """Return the APIs that belong on `port`; none if it is not a configured one."""
        apis: tuple[Api, ...] = ("inference", "management", "metrics")
        return frozenset(api for api in apis if self.address(api).port == port)


_ADDRESS = re.compile(
    r"(?P<scheme>[a-z]+)://(?P<host>\[[0-9a-fA-F:.]+\]|[\w-]{1,63}(?:\.[\w-]{1,63})*)(?::(?P<port>\d{1,5}))?/?",
    re.ASCII,
)
_DEFAULT_PORTS = {"inference_address": 80, "management_address": 8081, "metrics_address": 8082}


def _address(key: str, text: str) -> Address:
    found = _ADDRESS.fullmatch(text)
    if found is None or found["scheme"] != "http":
        raise ConfigError(f"{key}: expected http://host:port, not {text!r}")
    port = int(found["port"]) if found["port"] else _DEFAULT_PORTS[key]
    if not 0 < port <= 65535:
        raise ConfigError(f"{key}: port {port} is not one of 1 to 65535")
    return Address(found["host"].strip("[]"), port)


def _count(key: str, text: str) -> int:
    if not re.fullmatch(r"\d{1,18}", text.strip()):
        raise ConfigError(f"{key}: expected a whole number, not {text!r}")
    return int(text)


def _positive(key: str, text: str) -> int:
    if not (value := _count(key, text)):
        raise ConfigError(f"{key}: expected at least 1")
    return value


def _seconds(key: str, text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = -1.0
    if not 0 <= value < float("inf"):
        raise ConfigError(f"{key}: expected a number of seconds, not {text!r}")
    return value


def _flag(key: str, text: str) -> bool:
    if text.strip().lower() not in ("true", "false"):
        raise ConfigError(f"{key}: expected true or false, not {text!r}")
    return text.strip().lower() == "true"


def _path(key: str, text: str) -> Path:
    if "\0" in text:
        raise ConfigError(f"{key}: {text!r} cannot be a path")
    try:
        return Path(text).expanduser().absolute()  # workers have working directories of their own
    except RuntimeError:
        raise ConfigError(f"{key}: there is no such home directory: {text!r}") from None


def _is_blank(key: str, text: str) -> bool:
    """Whether a path is given as nothing, which is as good as not given."""
    return _READERS[key] is _path and not text.strip()


def _names(_key: str, text: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in text.split(",") if part.strip())


_READERS: Mapping[str, Callable[[str, str], Any]] = {
    "inference_address": _address,
    "management_address": _address,
    "metrics_address": _address,
    "workflow_store": _path,
    "model_store": _path,
    "load_workflows": _names,
    "allowed_urls": _names,
    "state_dir": _path,
    "job_queue_size": _positive,
    "max_request_size": _positive,
    "max_response_size": _positive,
    "max_archive_size": _positive,
    "arena_size": _count,
    "worker_threads": _count,
    "default_response_timeout": _seconds,
    "default_startup_timeout": _seconds,
    "stop_timeout": _seconds,
    "unregister_model_timeout": _seconds,
    "decode_input_request": _flag,
    "limit_max_image_pixels": _flag,
    "insecure_management": _flag,
}
_FIELDS = {
    "default_response_timeout": "response_timeout",
    "default_startup_timeout": "startup_timeout",
    "unregister_model_timeout": "unregister_timeout",
}
_DEFAULT_STORE = Path("workflow_store")


def parse_properties(text: str) -> dict[str, str]:
    r"""Read Java properties: `key=value` or `key: value`, `#` and `!` comments, `\` continues a line.

    Other escapes are kept as they are: a path may have backslashes.
    """
    found: dict[str, str] = {}
    for line in _logical_lines(text):
        key, *rest = re.split(r"\s*[=:]\s*|\s+", line, maxsplit=1)
        found[key] = rest[0] if rest else ""
    return found


def _logical_lines(text: str) -> Iterator[str]:
    """Give what has a key, in one piece. A comment ends with its line, whatever that ends with."""
    begun = ""
    for natural in re.split(r"\r\n?|\n", text):
        line = begun + natural.strip()
        begun = ""
        if not line or line[0] in "#!":
            continue
        if line.endswith("\\"):
            begun = line.removesuffix("\\")
        else:
            yield line
    if begun.strip():
        yield begun.strip()


def _expand(text: str, environ: Mapping[str, str]) -> str:
    """Replace `$$NAME$$` by the variable of that name, as TorchServe does."""

    def value(match: re.Match[str]) -> str:
        if match[1] not in environ:
            raise ConfigError(f"the configuration names {match[0]}, and no such variable is set")
        return environ[match[1]]

    return re.sub(r"\$\$(\w+)\$\$", value, text)


def _read_file(path: Path) -> dict[str, str]:
    try:
        return parse_properties(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"cannot read the configuration {path}: {reason}") from None


def _find_file(flag: Path | None, environ: Mapping[str, str]) -> Path | None:
    if named := environ.get("TS_CONFIG_FILE"):
        return Path(named)
    if flag is not None:
        return flag
    default = Path("config.properties")
    return default if default.is_file() else None


def load(
    ts_config: Path | None = None,
    flags: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
) -> Config:
    """Return the settings in force. `flags` holds the texts of given flags under their configuration keys.

    Raises `ConfigError` with one line that names the key and what is wrong with it.
    """
    environ = os.environ if environ is None else environ
    path = _find_file(ts_config, environ)
    texts = {} if path is None else {k: _expand(v, environ) for k, v in _read_file(path).items()}
    unused = tuple(key for key in texts if key not in _READERS)
    for key in _READERS:
        if (given := environ.get(f"WFSERVE_{key.upper()}")) is not None:
            texts[key] = given
    texts.update(flags or {})
    meant = {k: text for k, text in texts.items() if k in _READERS and not _is_blank(k, text)}
    values = {_FIELDS.get(k, k): _READERS[k](k, text) for k, text in meant.items()}
    return _complete(Config(**values, unused=unused))


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or an address of this machine's loopback."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _complete(config: Config) -> Config:
    if not (config.insecure_management or is_loopback(config.management_address.host)):
        raise ConfigError(
            f"management_address: whoever reaches {config.management_address} may run code here, and there "
            "is no authorization yet; --insecure-management starts all the same"
        )
    workflow_store = config.workflow_store or config.model_store
    if workflow_store is None and _DEFAULT_STORE.is_dir():
        workflow_store = _DEFAULT_STORE.absolute()
    return dataclasses.replace(
        config,
        state_dir=config.state_dir.absolute(),
        workflow_store=workflow_store,
        model_store=config.model_store or workflow_store,
        arena_size=config.arena_size or _machine_memory() // 4,
    )


def _machine_memory() -> int:
    """Return the bytes this process may use: the machine's, or its control group's if that is less."""
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    try:
        limit = Path("/sys/fs/cgroup/memory.max").read_text(encoding="ascii").strip()
    except OSError:
        return total
    return min(total, int(limit)) if limit.isdigit() else total
