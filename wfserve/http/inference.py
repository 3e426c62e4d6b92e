"""The inference API beside the predictions, which are endpoints of their own, past Quart."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint, Response

from wfserve.http.description import document
from wfserve.http.parameters import ANY_METHOD, json_response

if TYPE_CHECKING:
    from wfserve.registry.answering import Answering


def blueprint(registry: Answering) -> Blueprint:
    """Return the inference routes over `registry`."""
    routes = Blueprint("inference", __name__)

    @routes.route("/ping", methods=ANY_METHOD)
    async def ping() -> Response:
        return await health(registry)

    @routes.route("/predictions/<name>", methods=["OPTIONS"])
    async def describe(name: str) -> Response:
        registry.node(name)
        return json_response(document(["inference"], "/predictions/"))

    return routes


async def health(registry: Answering) -> Response:
    """Return whether all is well, as TorchServe says it."""
    healthy = await registry.health()
    return json_response({"status": "Healthy" if healthy else "Unhealthy"}, 200 if healthy else 500)
