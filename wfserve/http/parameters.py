"""What the Quart routes read from a query, and how they answer; a count that cannot be read is a 400."""

from __future__ import annotations

import re

from quart import Response, request

from wfserve.errors import BadRequestError
from wfserve.http.respond import pretty

ANY_METHOD = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")


def number(name: str, default: int) -> int:
    """Return a whole number of the query, `default` if it is not given or blank."""
    text = request.args.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadRequestError(f"Parameter {name} is not a whole number: {text}") from None


def page() -> tuple[int, int]:
    """Return `limit` and `next_page_token` of the query; what is no number counts as not given."""
    return _lenient("limit", 100), _lenient("next_page_token", 0)


def _lenient(name: str, default: int) -> int:
    text = request.args.get(name, "")
    return int(text) if _INTEGER.fullmatch(text) else default


def is_true(text: object) -> bool:
    """Whether a parameter is `true`, in any case; everything else is false, as for Java."""
    return str(text).lower() == "true"


def json_response(value: object, status: int = 200) -> Response:
    """Return a response of JSON as TorchServe writes it."""
    return Response(pretty(value), status=status, content_type="application/json")
