"""What a socket lets in follows from where it listens, and is worked out once a socket.

Where others than this machine can connect, and wherever the configuration says so, a request shows the token
of its API. Where a browser of this machine can connect, management is refused to pages of other origins.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

from wfserve.config import is_loopback
from wfserve.errors import ForbiddenError, NotFoundError
from wfserve.http.auth import waived
from wfserve.http.origin import refuse_foreign

if TYPE_CHECKING:
    from wfserve.config import Config
    from wfserve.http.auth import Tokens
    from wfserve.http.respond import Headers

    Server = tuple[str, int | None] | None  # ASGI's: host and port, path and None, or an unnamed Unix socket

Area = Literal["inference", "management", "token", "open"]  # what a request asks for; `open` is everybody's


class HttpsOnlyError(ForbiddenError):
    """The configuration has TLS where a request came in plain text (403)."""

    def __init__(self) -> None:
        super().__init__("This TorchServe instance only accepts HTTPS requests")

    def body(self) -> dict[str, object]:
        """Return the JSON body TorchServe answers with, which is no error's."""
        return {"status": self.message}


class Gate:
    """The rules of one socket."""

    __slots__ = ("_allowed_origin", "_encrypted", "_near_browsers", "_tokens", "apis")

    def __init__(self, config: Config, tokens: Tokens, server: Server, scheme: str) -> None:
        self.apis = config.exposed(server)
        self._encrypted = scheme == "https" or all(config.address(api).scheme != "https" for api in self.apis)
        self._tokens = tokens if config.tokens or not (_is_local(server) or waived(config)) else None
        self._near_browsers = _is_tcp(server) and _is_local(server) and not config.insecure_management
        self._allowed_origin = config.cors_allowed_origin or None

    @property
    def asks_for_tokens(self) -> bool:
        """Whether requests have to show a token."""
        return self._tokens is not None

    def admit(self, area: Area, headers: Headers) -> None:
        """Raise the `WfserveError` to answer with unless a request for `area` may come in."""
        if not self._encrypted:
            raise HttpsOnlyError
        if area == "open":
            return
        if area != "inference" and self._near_browsers:
            refuse_foreign(headers, self._allowed_origin)
        if self._tokens is not None:
            self._tokens.check(area, headers)
        elif area == "token":
            raise NotFoundError


def _is_tcp(server: Server) -> bool:
    return server is not None and server[1] is not None


def _is_local(server: Server) -> bool:
    """Whether only this machine can have connected; Unix sockets are told by a path, or not at all."""
    return server is None or server[1] is None or is_loopback(server[0])
