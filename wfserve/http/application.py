"""An application is Quart-Trio's over the routes of some APIs; errors look the same on all of them.

The gate of the socket has been found when it is asked, and is in its scope.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

from quart import Response, request
from quart_trio import QuartTrio
from werkzeug.exceptions import HTTPException

from wfserve.errors import BadRequestError, MethodNotAllowedError, NotFoundError, TooLargeError, WfserveError
from wfserve.http import auth, description, inference, management, metrics, models
from wfserve.http.respond import as_wfserve_error, common_headers, error_headers, pretty, request_id

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Mapping

    from quart import Blueprint

    from wfserve.config import Api
    from wfserve.http.auth import Tokens
    from wfserve.http.body import Scope
    from wfserve.http.gate import Area, Gate
    from wfserve.registry.answering import Answering
    from wfserve.registry.catalogue import Registry

_BLUEPRINTS: Mapping[str, Callable[[Any], Blueprint]] = {
    "inference": inference.blueprint,
    "management": management.blueprint,
    "metrics": metrics.blueprint,
}
_AREAS: dict[str | None, Area] = {
    "inference": "inference",
    "token": "token",
    "metrics": "open",
    "description": "open",
}


def application(registry: Answering, apis: Collection[Api], tokens: Tokens) -> QuartTrio:
    """Return a Quart-Trio application with the routes of `apis`; with none, every path is 404.

    It expects the gate of the socket in its scope.
    """
    app = QuartTrio("wfserve", static_folder=None)
    app.config["PROVIDE_AUTOMATIC_OPTIONS"] = False
    app.url_map.merge_slashes = False  # a redirect is no answer to a change
    app.config["MAX_CONTENT_LENGTH"] = registry.config.max_request_size
    for api in sorted(apis):
        app.register_blueprint(_BLUEPRINTS[api](registry))
    if "management" in apis:
        app.register_blueprint(models.blueprint(cast("Registry", registry)))
        app.register_blueprint(auth.blueprint(tokens))
    if apis:
        app.register_blueprint(description.blueprint(apis))

    @app.before_request
    async def guard() -> None:
        scope: Scope = cast("Any", request.scope)
        gate: Gate = scope["wfserve.gate"]
        gate.admit(_area(request.blueprint, gate.apis), scope["headers"])

    app.register_error_handler(HTTPException, _http_error)
    app.register_error_handler(Exception, _failure)
    app.after_request(_finish)
    return app


def _area(blueprint: str | None, apis: Collection[Api]) -> Area:
    """Return what the route asks for that was found; what is not found is of the port's most guarded API."""
    if blueprint in _AREAS:
        return _AREAS[blueprint]
    return "management" if "management" in apis else "inference" if "inference" in apis else "open"


def _identity() -> bytes:
    return request_id(request.scope["headers"])


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
