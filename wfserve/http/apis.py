"""Each port exposes what belongs there and nothing else: Quart-Trio applications over shared blueprints.

`/wfpredict` goes past Quart: it is what the server is for, and every microsecond of it is paid per request.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import trio
from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from wfserve.errors import BadRequestError, MethodNotAllowedError, NotFoundError, TooLargeError
from wfserve.http import inference, management, metrics
from wfserve.http.origin import refuse_foreign
from wfserve.http.predict import PREFIX, predict
from wfserve.http.respond import (
    as_wfserve_error,
    common_headers,
    error_headers,
    pretty,
    request_id,
)

if TYPE_CHECKING:
    from collections.abc import Collection, MutableMapping

    from wfserve.config import Api
    from wfserve.errors import WfserveError
    from wfserve.http.predict import Receive, Scope, Send
    from wfserve.http.respond import Headers
    from wfserve.registry.catalogue import Registry

_BLUEPRINTS = {
    "inference": inference.blueprint,
    "management": management.blueprint,
    "metrics": metrics.blueprint,
}


class Apis:
    """The HTTP applications of one registry, by port."""

    def __init__(self, registry: Registry) -> None:
        self._registry = registry
        self._by_exposure: dict[frozenset[Api], Any] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one HTTP request on the APIs of the port that it came to."""
        exposed = self._registry.config.exposed(scope["server"][1])
        if "inference" in exposed and scope["path"][: len(PREFIX) + 2].lower() == f"/{PREFIX}/":
            await predict(self._registry, scope, receive, send)
        else:
            await self._application(exposed)(scope, receive, _uncut(send))

    def _application(self, exposed: frozenset[Api]) -> Any:
        if exposed not in self._by_exposure:
            self._by_exposure[exposed] = application(self._registry, exposed)
        return self._by_exposure[exposed]


def _uncut(send: Send) -> Send:
    """Return `send` with its last part shielded from cancellation.

    While hypercorn ends a response it already reports the client as gone, upon which Quart-Trio cancels the
    request; the connection would lose its keep-alive timer, stay open for ever and hold up a graceful stop.
    """

    async def send_uncut(message: MutableMapping[str, Any]) -> None:
        with trio.CancelScope(shield=message["type"] == "http.response.body"):
            await send(message)

    return send_uncut


def application(registry: Registry, apis: Collection[Api]) -> QuartTrio:
    """Return a Quart-Trio application with the routes of `apis`; with none, every path is 404."""
    app = QuartTrio("wfserve", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.config["MAX_CONTENT_LENGTH"] = registry.config.max_request_size
    for api in sorted(apis):
        app.register_blueprint(_BLUEPRINTS[api](registry))
    if "management" in apis:

        @app.before_request
        async def guard() -> None:
            if not registry.config.insecure_management:
                host, _ = request.scope["server"] or ("", None)
                refuse_foreign(_raw_headers(), host)

    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failure)
    app.after_request(_finish)
    return app


def _raw_headers() -> Headers:
    return [(name.lower().encode("latin-1"), value.encode("latin-1")) for name, value in request.headers]


def _identity() -> bytes:
    return request_id(_raw_headers())


def _render(error: WfserveError) -> Response:
    response = Response(pretty(error.body()), status=error.code, content_type="application/json")
    for name, value in error_headers(error):
        response.headers[name.decode()] = value.decode()
    return response


async def _http_error(error: HTTPException) -> Response:
    match error.code:
        case 404:
            return _render(NotFoundError())
        case 405:
            return _render(MethodNotAllowedError())
        case 413:
            return _render(TooLargeError("The request body is over max_request_size."))
        case _:
            return _render(BadRequestError("Invalid HTTP message."))


async def _failure(error: Exception) -> Response:
    return _render(as_wfserve_error(error, _identity()))


async def _finish(response: Response) -> Response:
    for name, value in common_headers(response.status_code, _identity()):
        response.headers[name.decode()] = value.decode("latin-1")
    return response
