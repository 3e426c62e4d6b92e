"""`wfserve serve`: the ASGI app on its three ports in one process, from start to a graceful stop."""

from __future__ import annotations

import logging
import os
import shlex
import signal
from contextlib import ExitStack
from functools import partial
from typing import TYPE_CHECKING
from urllib.parse import quote

import trio

from wfserve import __version__
from wfserve.asgi import App, announce, first_of, log_to_stderr
from wfserve.errors import ConfigError, WfserveError
from wfserve.front.carriers import server_settings
from wfserve.front.supervise import FrontEnds
from wfserve.http.cors import cors_headers
from wfserve.http.listen import bound
from wfserve.http.refusal import OwnAnswers
from wfserve.http.server import serve
from wfserve.http.sharing import shared
from wfserve.http.tls import serve_tls, tls_context
from wfserve.notify import Supervisor
from wfserve.registry import startup
from wfserve.registry.lone import models_of
from wfserve.registry.opening import open_registry
from wfserve.workers.lending import Lender

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from wfserve.config import Address, Config
    from wfserve.http.auth import Tokens
    from wfserve.http.exchange import App as AsgiApp
    from wfserve.http.sharing import SharedAddress
    from wfserve.registry.catalogue import Registry

log = logging.getLogger(__name__)
_READ_KEY = 'import json, sys; print(json.load(open(sys.argv[1]))["inference"]["key"])'


def serve_forever(config: Config, example: tuple[str, Path] | None = None) -> int:
    """Serve until SIGTERM or SIGINT; return the exit code. Raises `ConfigError` if it cannot start.

    `example` is a workflow and a file to print a curl line for, once the workflow is ready.
    """
    log_to_stderr()
    announce(config)
    with ExitStack() as sockets:
        carriers = Carriers(config, sockets)
        try:
            trio.run(_serve, config, carriers, example)
        except* WfserveError as group:
            raise first_of(group) from None
    return 0


class Carriers:
    """The servers that carry the addresses of one configuration: our own, and hypercorn for those with TLS.

    Everything that can be wrong with an address is found here, before anything else is started: raises
    `ConfigError`.
    """

    def __init__(self, config: Config, sockets: ExitStack) -> None:
        own = [api for api in config.apis if config.processes == 1 or api != "inference"]
        addresses = list(dict.fromkeys(config.address(api) for api in own))
        self._settings = server_settings(config)
        self.shared = None if config.processes == 1 else _shared(config, addresses, sockets)
        self._plain = [sockets.enter_context(bound(each)) for each in addresses if each.scheme != "https"]
        self._secure = [sockets.enter_context(bound(each)) for each in addresses if each.scheme == "https"]
        self._context = tls_context(config) if self._secure else None

    async def carry(
        self, app: AsgiApp, own: OwnAnswers, stop: trio.Event, *, task_status: trio.TaskStatus[None]
    ) -> None:
        """Serve `app` until `stop` is set and every accepted request is answered."""
        async with trio.open_nursery() as nursery:
            if self._plain:
                await nursery.start(partial(serve, app, self._plain, self._settings, stop=stop, own=own))
            if self._context is not None:
                secure = partial(serve_tls, app, self._secure, self._settings, self._context, stop=stop)
                await nursery.start(secure)
            task_status.started()


async def _serve(config: Config, carriers: Carriers, example: tuple[str, Path] | None) -> None:
    app = App(config)
    stop = trio.Event()
    supervisor = Supervisor.of(os.environ)
    models = models_of(config)
    lender = None if carriers.shared is None else Lender()
    async with open_registry(config, lender) as registry, trio.open_nursery() as nursery:

        async def carry(tokens: Tokens, *, task_status: trio.TaskStatus[None]) -> None:
            own = OwnAnswers(cors_headers(config), registry.responses.count)
            async with trio.open_nursery() as carrying:
                if lender is not None and carriers.shared is not None:
                    registry.fronts = fronts = FrontEnds(registry, lender, carriers.shared, tokens, stop)
                    await carrying.start(fronts.run)
                await carrying.start(carriers.carry, app, own, stop)
                task_status.started()
            nursery.cancel_scope.cancel()

        await nursery.start(_stop_on_signal, stop, nursery.cancel_scope, supervisor)
        with app.serving(registry) as tokens:
            await nursery.start(carry, tokens)
            _say_where(config)
            supervisor.tell("READY=1")
            nursery.start_soon(supervisor.keep_told, partial(_how_many_are_up, registry))
            startup.load(registry, config.load_workflows, models)
            await registry.loaded()
            if example is not None:
                _say_how(registry, config, *example)
            await trio.sleep_forever()


def _shared(config: Config, others: Sequence[Address], sockets: ExitStack) -> SharedAddress:
    """Reserve the inference address for front ends. Raises `ConfigError` if it cannot be theirs alone."""
    address = config.inference_address
    if address in others:
        raise ConfigError(f"processes: front ends need {address} for the inference API alone")
    if address.scheme == "https" and not (config.keystore or config.certificate_file):
        raise ConfigError("processes: front ends need a certificate_file or keystore to share")
    return sockets.enter_context(shared(address))


async def _stop_on_signal(
    stop: trio.Event,
    everything: trio.CancelScope,
    supervisor: Supervisor,
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    with trio.open_signal_receiver(signal.SIGINT, signal.SIGTERM) as signals:
        task_status.started()
        async for number in signals:
            if stop.is_set():
                everything.cancel()
            log.info("%s: stopping", signal.Signals(number).name)
            supervisor.tell("STOPPING=1")
            stop.set()


def _say_where(config: Config) -> None:
    where = ", ".join(f"{api} {config.address(api)}" for api in config.apis)
    log.info("wfserve %s: %s", __version__, where)


def _how_many_are_up(registry: Registry) -> str:
    names = registry.names
    up = sum(each.record.default in each.running for each in names)
    return f"{up} of {len(names)} workflows are up"


def _say_how(registry: Registry, config: Config, name: str, file: Path) -> None:
    if any(workflow.name == name for workflow in registry):
        print(example_call(config, name, file), flush=True)


def example_call(config: Config, name: str, file: Path) -> str:
    """Return a line for a shell on this machine that sends `file` to the workflow `name`.

    A token is read from the key file when the line is run, and stays out of what is printed.
    """
    address = config.inference_address
    parts = ["curl -f -T", shlex.quote(str(file))]
    if config.tokens:
        key_file = shlex.quote(str(config.key_file))
        parts.append(f'-H "Authorization: Bearer $(python3 -c {shlex.quote(_READ_KEY)} {key_file})"')
    if address.scheme == "https":
        parts.append("--insecure")  # nobody may vouch for its certificate, and this is its own machine
    if address.path:
        parts.append(f"--unix-socket {shlex.quote(address.path)}")
    url = f"{'http://localhost' if address.path else address}/wfpredict/{quote(name, safe='')}"
    return " ".join([*parts, url])
