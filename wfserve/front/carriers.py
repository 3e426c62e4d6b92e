"""The limits of every server of one configuration, and what carries one address of it."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from wfserve.http.server import ServerSettings, serve
from wfserve.http.tls import serve_tls, tls_context

if TYPE_CHECKING:
    import socket

    import trio

    from wfserve.config import Address, Config
    from wfserve.http.exchange import App
    from wfserve.http.refusal import OwnAnswers


def server_settings(config: Config) -> ServerSettings:
    """Return the server's limits; what is over `max_request_size` is refused by the APIs themselves."""
    return ServerSettings(
        max_body_bytes=max(ServerSettings().max_body_bytes, config.max_request_size),
        stop_timeout=config.stop_timeout,
    )


async def carry_one(
    app: App,
    own: OwnAnswers,
    address: Address,
    listener: socket.socket,
    config: Config,
    *,
    stop: trio.Event,
    task_status: trio.TaskStatus[None],
) -> None:
    """Serve `app` on `listener`, which is bound to `address`, until `stop` and the last answer."""
    settings = server_settings(config)
    if address.scheme == "https":
        carry = partial(serve_tls, app, [listener], settings, tls_context(config))
    else:
        carry = partial(serve, app, [listener], settings, own=own)
    await carry(stop=stop, task_status=task_status)
