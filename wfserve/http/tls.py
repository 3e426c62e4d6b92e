"""Hypercorn's connections carry the addresses with https, in the same process and for the same application.

Its HTTP/2 is not offered: it fails where a request is refused before its body has come. Whatever fails in a
connection ends that connection alone.
"""

from __future__ import annotations

import logging
import ssl
from functools import partial
from typing import TYPE_CHECKING, Any

import hypercorn.config
import trio
from hypercorn.trio.tcp_server import TCPServer
from hypercorn.trio.worker_context import WorkerContext
from hypercorn.typing import ConnectionState
from hypercorn.utils import wrap_app

from wfserve.http.gate import HttpsOnlyError
from wfserve.http.hypercorn import under_hypercorn
from wfserve.http.patience import with_body_timeout
from wfserve.http.respond import common_headers, pretty, request_id
from wfserve.http.response import Response

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

    from wfserve.config import Config
    from wfserve.http.exchange import App
    from wfserve.http.server import ServerSettings

log = logging.getLogger(__name__)


async def serve_tls(
    app: App,
    listeners: Sequence[socket.socket],
    settings: ServerSettings,
    tls: ssl.SSLContext,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve `app` on `listeners`, which are bound, and close them; returns as `server.serve` does."""
    patient = with_body_timeout(app, settings.body_timeout)
    wrapped, context = wrap_app(under_hypercorn(patient), 0, "asgi"), WorkerContext(None)
    config = _hypercorn_config(settings)

    async def answer(stream: Any) -> None:
        try:
            await TCPServer(wrapped, config, context, ConnectionState({}), stream)
        except Exception:  # a defect of a connection costs that one, not all of them
            log.exception("a connection has failed")

    async with trio.open_nursery() as connections:
        async with trio.open_nursery() as nursery:
            accepting = [_listening(listener, settings.backlog, tls) for listener in listeners]
            nursery.start_soon(partial(trio.serve_listeners, answer, accepting, handler_nursery=connections))
            task_status.started()
            await stop.wait()
            nursery.cancel_scope.cancel()
        await context.terminated.set()
        connections.cancel_scope.deadline = trio.current_time() + settings.stop_timeout


def _hypercorn_config(settings: ServerSettings) -> hypercorn.config.Config:
    config = hypercorn.config.Config()
    config.errorlog = log
    config.include_server_header = False
    config.h11_max_incomplete_size = settings.max_head_bytes
    config.ssl_handshake_timeout = settings.header_timeout
    config.keep_alive_timeout = settings.keep_alive_timeout
    return config


def _listening(
    listener: socket.socket, backlog: int, tls: ssl.SSLContext
) -> trio.SSLListener[trio.SocketStream]:
    listener.listen(backlog)
    plain = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    return trio.SSLListener(plain, tls, https_compatible=True)


def tls_context(config: Config) -> ssl.SSLContext:
    """Return the TLS settings of a server. Raises `ConfigError` if its certificate cannot be used."""
    from wfserve.http.certificate import load_certificate  # with cryptography, which few servers need

    context = _Context(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.options |= ssl.OP_NO_COMPRESSION  # RFC 7540, 9.2.1
    context.set_ciphers("ECDHE+AESGCM:ECDHE+CHACHA20")
    context.set_alpn_protocols(["http/1.1"])
    load_certificate(context, config)
    return context


class _Handshake(ssl.SSLObject):
    """A handshake that answers a client that speaks plain HTTP, before it fails."""

    outgoing: ssl.MemoryBIO
    answered = False

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLError as error:
            if error.reason != "HTTP_REQUEST" or self.answered:
                raise
            self.answered = True
            self.outgoing.write(_plain_http_refusal())
            raise ssl.SSLWantReadError from None  # has the answer sent; the next call fails


class _Context(ssl.SSLContext):
    sslobject_class = _Handshake

    def wrap_bio(
        self, incoming: ssl.MemoryBIO, outgoing: ssl.MemoryBIO, *args: Any, **more: Any
    ) -> _Handshake:
        handshake = super().wrap_bio(incoming, outgoing, *args, **more)
        assert isinstance(handshake, _Handshake)
        handshake.outgoing = outgoing
        return handshake


def _plain_http_refusal() -> bytes:
    error = HttpsOnlyError()
    headers = [(b"content-type", b"application/json"), *common_headers(error.code, request_id(()))]
    body = pretty(error.body())
    return Response("GET", "1.1", keep_alive=False).head(error.code, headers, len(body), b"") + body
