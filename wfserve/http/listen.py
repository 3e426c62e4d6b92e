"""A listener is bound before anything else is started, and when its block ends nothing of it is left.

That is true of the file of a Unix socket, too: only its owner can connect to it, and one whose server was
killed is replaced.
"""

from __future__ import annotations

import os
import socket
import stat
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

from wfserve.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.config import Address

_OWNER_ONLY = 0o600


@contextmanager
def bound(address: Address) -> Iterator[socket.socket]:
    """Bind a socket to `address` during the block. Raises `ConfigError` if that cannot be."""
    family = socket.AF_UNIX if address.path else socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as listener:
        try:
            if address.path:
                _clear(address.path)
                listener.bind(address.path)
                os.chmod(address.path, _OWNER_ONLY)  # nobody has connected: it does not listen yet
            else:
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                listener.bind((address.host, address.port))
        except OSError as error:
            raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
        if address.path:
            with _removed_after(address.path):
                yield listener
        else:
            yield listener


def _clear(path: str) -> None:
    """Remove what a server that was killed has left; raise `OSError` for anything else that is there."""
    try:
        found = os.lstat(path)
    except FileNotFoundError:
        return
    if not stat.S_ISSOCK(found.st_mode):
        raise OSError(None, "a file of that name exists")
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)  # a server that is busy has not gone
        with suppress(BlockingIOError):
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                os.unlink(path)
                return
    raise OSError(None, "another server listens there")


@contextmanager
def _removed_after(path: str) -> Iterator[None]:
    """Remove `path` when the block ends, unless it is somebody else's by then."""
    made = os.lstat(path)
    try:
        yield
    finally:
        with suppress(FileNotFoundError):
            if os.path.samestat(os.lstat(path), made):
                os.unlink(path)
