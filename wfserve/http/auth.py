"""A token is compared in constant time and expires; the keys' file is its owner's, and goes with the server.

Keys, file and answers are those of TorchServe 0.12.0: one key for the inference API, one for the management
API, and one that makes new keys of the other two.
"""

from __future__ import annotations

import logging
import math
import os
import secrets
import time
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hmac import compare_digest
from typing import TYPE_CHECKING, Literal

from quart import Blueprint, Response, request

from wfserve.errors import ConfigError, WfserveError
from wfserve.http.respond import pretty

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from wfserve.config import Config
    from wfserve.http.respond import Headers

log = logging.getLogger(__name__)
Kind = Literal["management", "inference", "token"]  # what a key is for; `token` makes new keys
_NAMES: dict[Kind, str] = {"management": "management", "inference": "inference", "token": "API"}
_RENEWABLE: dict[str, Kind] = {"management": "management", "inference": "inference"}
_KEY_BYTES = 6  # eight characters
_LAST_INSTANT = datetime.max.replace(tzinfo=UTC).timestamp() - 1
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")


class InvalidKeyError(WfserveError):
    """The request shows no token, or not the one that is wanted, or not in time (400)."""

    status = 400
    type = "InvalidKeyException"

    def __init__(self, kind: Kind) -> None:
        what = "Authentication" if kind == "token" else "Authorization"
        super().__init__(f"Token {what} failed. Token either incorrect, expired, or not provided correctly")


@dataclass(frozen=True, slots=True)
class _Key:
    value: bytes
    expires: float  # seconds since the epoch

    def entry(self) -> dict[str, str]:
        """Return what the file says of it."""
        if self.expires == math.inf:
            return {"key": self.value.decode()}
        instant = datetime.fromtimestamp(min(self.expires, _LAST_INSTANT), UTC)
        text = instant.isoformat(timespec="microseconds").replace("+00:00", "Z")
        return {"key": self.value.decode(), "expiration time": text}


Keys = dict[Kind, _Key]


class Tokens:
    """The keys of one server. `lifetime` is in seconds, `clock` gives seconds since the epoch."""

    def __init__(self, path: Path, lifetime: float, clock: Callable[[], float] = time.time) -> None:
        self._path = path
        self._lifetime = lifetime
        self._clock = clock
        self.keys: Keys = {kind: self._new(kind) for kind in _NAMES}
        self.on_renewal: Callable[[], object] = bool  # told of new keys
        self._written: tuple[int, int] | None = None  # device and inode of the file as it was written last

    def _new(self, kind: Kind) -> _Key:
        expires = math.inf if kind == "token" else self._clock() + self._lifetime
        return _Key(secrets.token_urlsafe(_KEY_BYTES).encode(), expires)

    def check(self, kind: Kind, headers: Headers) -> None:
        """Raise `InvalidKeyError` unless `headers`, with names in lower case, carry the key for `kind`."""
        key = self.keys[kind]
        words = next((value for name, value in headers if name == b"authorization"), b"").split()
        shown = words[1] if len(words) == 2 and words[0] == b"Bearer" else b""
        if not (compare_digest(shown, key.value) and self._clock() < key.expires):
            raise InvalidKeyError(kind)

    def renew(self, kind: Kind) -> None:
        """Replace the key for `kind`. Raises `OSError`, and changes nothing, if the file is not writable."""
        keys = {**self.keys, kind: self._new(kind)}
        self._write(keys)
        self.keys = keys
        self.on_renewal()

    @contextmanager
    def published(self) -> Iterator[None]:
        """Keep the keys in their file while the block runs. Raises `ConfigError` if it cannot be written."""
        try:
            self._write(self.keys)
        except OSError as error:
            raise ConfigError(f"cannot write the key file {self._path}: {error.strerror}") from None
        try:
            yield
        finally:
            self._remove()

    def _write(self, keys: dict[Kind, _Key]) -> None:
        """Replace the file in one step by another, which nobody else could ever read."""
        fresh = self._path.with_name(f".{self._path.name}.{secrets.token_hex(8)}")
        descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            with open(descriptor, "wb") as file:
                file.write(pretty({_NAMES[kind]: key.entry() for kind, key in keys.items()}))
                written = os.fstat(descriptor)
            os.replace(fresh, self._path)
        except BaseException:
            fresh.unlink(missing_ok=True)
            raise
        self._written = written.st_dev, written.st_ino

    def _remove(self) -> None:
        """Remove the file, unless another server has put its own there."""
        with suppress(FileNotFoundError):
            found = self._path.lstat()
            if (found.st_dev, found.st_ino) == self._written:
                self._path.unlink()


@contextmanager
def open_tokens(config: Config, *, anywhere: bool) -> Iterator[Tokens]:
    """Make the keys of a server; their file is there during the block where a client may need one.

    `anywhere` says that another server has bound the sockets, and perhaps not where `config` has them.
    """
    tokens = Tokens(config.key_file, config.token_expiration)
    if config.tokens:
        log.info("clients must show a token; the keys are in %s", config.key_file)
    elif anywhere and not waived(config):
        log.info("clients beyond loopback must show a token; the keys are in %s", config.key_file)
    else:
        yield tokens
        return
    with tokens.published():
        yield tokens


def waived(config: Config) -> bool:
    """Whether the configuration gives up tokens even where others can connect."""
    return bool(config.disable_token_authorization) and config.insecure_management


def blueprint(tokens: Tokens) -> Blueprint:
    """Return `/token`, which makes a new key and tells it to the file alone."""
    routes = Blueprint("token", __name__)

    @routes.route("/token", methods=_METHODS)
    async def renew() -> Response:
        kind = _RENEWABLE.get(request.args.get("type", ""))
        if kind is None:
            raise InvalidKeyError("token")
        tokens.renew(kind)
        return Response(b"\n", content_type="application/json")

    return routes
