"""An Address is one that a socket can be bound to: a host with a port, or the absolute path of a Unix socket.

Texts are TorchServe's: `http://host:port`, `https://host:port` and `unix:/path`, schemes in any case, and a
port that depends on the API and the scheme where none is given. A slash at the end and IPv6 hosts in
brackets, which TorchServe refuses, are understood.
"""

from __future__ import annotations

import ipaddress
import re
from typing import TYPE_CHECKING, Literal, NamedTuple

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

LOOPBACK = "127.0.0.1"
WILDCARDS = frozenset({"0.0.0.0", "::"})
LONGEST_PATH = 107  # bytes; sun_path of unix(7) has one more, for a zero
Api = Literal["inference", "management", "metrics"]
APIS: tuple[Api, ...] = ("inference", "management", "metrics")
DEFAULT_PORTS: Mapping[str, Mapping[str, int]] = {
    "http": {"inference_address": 80, "management_address": 8081, "metrics_address": 8082},
    "https": {"inference_address": 443, "management_address": 8444, "metrics_address": 8445},
}
_ADDRESS = re.compile(
    r"(?P<scheme>https?)://(?P<host>\[[0-9a-f:.]+\]|[\w-]{1,63}(?:\.[\w-]{1,63})*)(?::(?P<port>\d{1,5}))?/?"
    r"|unix:(?P<path>/[^\0]+)",
    re.ASCII | re.IGNORECASE,
)


class Address(NamedTuple):
    """Where one API listens; `path` is that of a Unix socket, which has neither host nor port."""

    host: str
    port: int
    scheme: str = "http"  # http, https or unix
    path: str = ""

    def __str__(self) -> str:
        return self.bind if self.path else f"{self.scheme}://{self.bind}"

    @property
    def bind(self) -> str:
        """Return the address as a socket bind string, as hypercorn reads it."""
        if self.path:
            return f"unix:{self.path}"
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect to it."""
        return bool(self.path) or is_loopback(self.host)

    def answers_for(self, host: str) -> bool:
        """Whether a connection that came to the address `host` may have come to this one, ports aside."""
        if _is_numeric(self.host):
            return self.host in (host, *WILDCARDS)
        return is_loopback(self.host) == is_loopback(host)


def parse_address(key: str, text: str) -> Address:
    """Return the address that the setting `key` gives. Raises `ConfigError`."""
    found = _ADDRESS.fullmatch(text.strip())
    if found is None:
        raise ConfigError(f"{key}: expected http://host:port, https://host:port or unix:/path, not {text!r}")
    if path := found["path"]:
        if len(path.encode(errors="surrogateescape")) > LONGEST_PATH:
            raise ConfigError(f"{key}: the path of a Unix socket has at most {LONGEST_PATH} bytes")
        return Address("", 0, "unix", path)
    scheme = found["scheme"].lower()
    port = int(found["port"]) if found["port"] else DEFAULT_PORTS[scheme][key]
    if not 0 < port <= 65535:
        raise ConfigError(f"{key}: port {port} is not one of 1 to 65535")
    return Address(_host(key, found["host"]), port, scheme)


def _host(key: str, text: str) -> str:
    """Return a host as sockets print it."""
    if not text.startswith("["):
        return text
    try:
        return str(ipaddress.IPv6Address(text[1:-1]))
    except ValueError:
        raise ConfigError(f"{key}: {text} is not an IPv6 address") from None


def is_loopback(host: str) -> bool:
    """Whether `host` is a name or an address of this machine's loopback."""
    if host == "localhost" or host.endswith(".localhost"):  # RFC 6761, 6.3
        return True
    return _is_numeric(host) and ipaddress.ip_address(host).is_loopback


def _is_numeric(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
