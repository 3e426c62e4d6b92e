"""The inference API beside `/wfpredict`, which is an endpoint of its own (`predict.py`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from quart import Blueprint, Response

from wfserve.http.respond import pretty

if TYPE_CHECKING:
    from wfserve.registry.catalogue import Registry


def blueprint(registry: Registry) -> Blueprint:
    """Return the inference routes over `registry`."""
    routes = Blueprint("inference", __name__)

    @routes.get("/ping")
    async def ping() -> Response:
        healthy = registry.healthy()
        body = pretty({"status": "Healthy" if healthy else "Unhealthy"})
        return Response(body, status=200 if healthy else 500, content_type="application/json")

    return routes
