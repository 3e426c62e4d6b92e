"""`wfserve serve`: the ASGI app on its three ports in one process, from start to a graceful stop."""

from __future__ import annotations

import logging
import shlex
import signal
import socket
from contextlib import ExitStack
from typing import TYPE_CHECKING

import trio

from wfserve import __version__
from wfserve.asgi import App, log_to_stderr
from wfserve.errors import ConfigError, WfserveError
from wfserve.http.server import ServerSettings, serve
from wfserve.registry.catalogue import open_registry

if TYPE_CHECKING:
    from pathlib import Path

    from wfserve.config import Address, Config
    from wfserve.registry.catalogue import Registry

log = logging.getLogger(__name__)


def serve_forever(config: Config, example: tuple[str, Path] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises `ConfigError` if it cannot start.

    `example` is a workflow and a file to print a curl line for, once the workflow is ready.
    """
    log_to_stderr()
    for key in config.unused:
        log.info("the configuration's %s means nothing here and is ignored", key)
    with ExitStack() as sockets:
        listeners = [sockets.enter_context(_listener(address)) for address in _addresses(config)]
        try:
            trio.run(_serve, config, listeners, example)
        except* WfserveError as group:
            raise group.exceptions[0] from None
    return 0


def _addresses(config: Config) -> list[Address]:
    return list(dict.fromkeys([config.inference_address, config.management_address, config.metrics_address]))


def _listener(address: Address) -> socket.socket:
    """Bind `address` before anything else is started, so that a port that is taken costs nothing."""
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((address.host, address.port))
    except OSError as error:
        listener.close()
        raise ConfigError(f"cannot listen on {address}: {error.strerror or error}") from None
    return listener


async def _serve(config: Config, listeners: list[socket.socket], example: tuple[str, Path] | None) -> None:
    app = App(config)
    stop = trio.Event()
    async with open_registry(config) as registry, trio.open_nursery() as nursery:

        async def carry(*, task_status: trio.TaskStatus[None]) -> None:
            await serve(app, listeners, _server_settings(config), stop=stop, task_status=task_status)
            nursery.cancel_scope.cancel()

        await nursery.start(_stop_on_signal, stop, nursery.cancel_scope)
        with app.serving(registry):
            await nursery.start(carry)
            _say_where(config)
            registry.load(config.load_workflows)
            await registry.loaded()
            if example is not None:
                _say_how(registry, config, *example)
            await trio.sleep_forever()


def _server_settings(config: Config) -> ServerSettings:
    """Return the server's limits; what is over `max_request_size` is refused by the APIs themselves."""
    return ServerSettings(
        max_body_bytes=max(ServerSettings().max_body_bytes, config.max_request_size),
        stop_timeout=config.stop_timeout,
    )


async def _stop_on_signal(
    stop: trio.Event, everything: trio.CancelScope, *, task_status: trio.TaskStatus[None]
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                everything.cancel()
            log.info("%s: stopping", signal.Signals(number).name)
            stop.set()


def _say_where(config: Config) -> None:
    log.info(
        "wfserve %s: inference %s, management %s, metrics %s",
        __version__,
        config.inference_address,
        config.management_address,
        config.metrics_address,
    )


def _say_how(registry: Registry, config: Config, name: str, file: Path) -> None:
    if any(workflow.name == name for workflow in registry):
        url = f"{config.inference_address}/wfpredict/{name}"
        print(f"curl -f -T {shlex.quote(str(file))} {url}", flush=True)
