"""Front ends of one server share an address; a second server is refused before it takes half the traffic.

TCP: each listens with a socket of its own, between which the kernel divides connections (`SO_REUSEPORT`).
A Unix socket cannot be bound twice: all listen with the same one.
"""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

from wfserve.errors import ConfigError
from wfserve.http.listen import bound

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.config import Address


class SharedAddress:
    """An address that is reserved for this server's front ends as long as `held` is open."""

    def __init__(self, address: Address, held: socket.socket) -> None:
        self._address = address
        self._held = held

    def listener(self) -> socket.socket:
        """Return one more socket that is bound to the address. Raises `OSError`."""
        return self._held.dup() if self._address.path else _bound_with_others(self._address)


@contextmanager
def shared(address: Address) -> Iterator[SharedAddress]:
    """Reserve `address` during the block. Raises `ConfigError` if another server has it."""
    if address.path:
        with bound(address) as held:
            yield SharedAddress(address, held)
        return
    with _alone(address):
        with bound(address):  # as a server that shares with nobody: it fails if anybody is there
            pass
        try:
            held = _bound_with_others(address)
        except OSError as error:
            raise _refusal(address, error) from None
        with held:
            yield SharedAddress(address, held)


def _bound_with_others(address: Address) -> socket.socket:
    made = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        made.bind((address.host, address.port))
    except BaseException:
        made.close()
        raise
    return made


@contextmanager
def _alone(address: Address) -> Iterator[None]:
    """Hold a lock that belongs to the address: between looking for another server and binding one may come.

    An abstract Unix socket belongs to the network namespace, as ports do, and goes with its process.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as lock:
        try:
            lock.bind(f"\0wfserve {address.host} {address.port}")
        except OSError as error:
            raise _refusal(address, error) from None
        yield


def _refusal(address: Address, error: OSError) -> ConfigError:
    return ConfigError(f"cannot listen on {address}: {error.strerror or error}")
