"""What the Quart routes read from a request, and how they answer; a number that cannot be read is a 400."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any

import orjson
from quart import Response, request

from wfserve.config.readers import closest
from wfserve.errors import BadRequestError
from wfserve.http.respond import pretty

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping

ANY_METHOD = ["GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"]
_OF_ANY_CHANGE = {"synchronous", "timeout"}
_SHOWN = 80  # characters
_INTEGER = re.compile(r"[+-]?[0-9]{1,10}")


def number(name: str, default: int) -> int:
    """Return a whole number of the query, `default` if it is not given or blank."""
    text = request.args.get(name, "").strip()
    if not text:
        return default
    try:
        return int(text)
    except ValueError:
        raise BadRequestError(f"Parameter {name} is not a whole number: {shown(text)}") from None


def page() -> tuple[int, int]:
    """Return `limit` and `next_page_token` of the query; what is no number counts as not given."""
    return _lenient("limit", 100), _lenient("next_page_token", 0)


def _lenient(name: str, default: int) -> int:
    text = request.args.get(name, "")
    return int(text) if _INTEGER.fullmatch(text) else default


def is_true(text: object) -> bool:
    """Whether a parameter is `true`, in any case; everything else is false, as for Java."""
    return str(text).lower() == "true"


async def given_parameters(lost: Collection[str] = ()) -> dict[str, Any]:
    """Return the parameters of a change: of a JSON body if there is one, else of the query.

    Raises `BadRequestError` if both have some, if one of the query has several values, and for a body that
    is not JSON and would not be read. Where some are `lost`, TorchServe has the call, and lets a body pass
    that is not JSON, these parameters beside one that is, and theirs of several values the first.
    """
    several = sorted(name for name in request.args.keys() - set(lost) if len(request.args.getlist(name)) > 1)
    if several:
        raise BadRequestError(f"Parameter {shown(several[0])} is given more than once.")
    if request.mimetype != "application/json":
        if not lost and await request.get_data():
            raise BadRequestError("The body is not of the type application/json, and nothing else is read.")
        return dict(request.args)
    if request.args.keys() - set(lost):
        raise BadRequestError("Give the parameters in the query or in the JSON body, not in both.")
    try:
        body = orjson.loads(await request.get_data())
    except orjson.JSONDecodeError:
        raise BadRequestError("The request body is not JSON.") from None
    if not isinstance(body, dict):
        raise BadRequestError("The request body is not a JSON object.")
    return body


def text(given: Mapping[str, Any], name: str) -> str | None:
    """Return a parameter that is text, None if it is not given."""
    value = given.get(name)
    if value is not None and not isinstance(value, str):
        raise BadRequestError(f"Parameter {name} is not a string.")
    return value


def boolean(given: Mapping[str, Any], name: str) -> bool:
    """Return whether a parameter is `true`, as `is_true` has it."""
    return is_true(given.get(name))


def decided(given: Mapping[str, Any], name: str) -> bool | None:
    """Return a parameter that is true or false, None if it is not given."""
    value = given.get(name)
    if value is None or isinstance(value, bool):
        return value
    if str(value).lower() not in ("true", "false"):
        raise BadRequestError(f"Parameter {name} is neither true nor false: {shown(value)}")
    return is_true(value)


def seconds(given: Mapping[str, Any], name: str) -> float | None:
    """Return a parameter of whole seconds, None if it is not given or 0."""
    text = str(given.get(name, 0))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise BadRequestError(f"Parameter {name} is not a number of seconds: {shown(text)}")
    return float(text) or None


def refuse_unknown(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise `BadRequestError` if there is a parameter that is not `known`: a typo must not look done."""
    unknown = sorted(given.keys() - set(known))
    if unknown:
        raise BadRequestError(f"There is no parameter {shown(unknown[0])!r}, only {', '.join(known)}.")


def refuse_misspelt(given: Mapping[str, Any], known: Collection[str]) -> None:
    """Raise `BadRequestError` for a parameter that was probably meant to be one of those that are `known`.

    Others are let pass, as TorchServe does.
    """
    for name in given.keys() - set(known):
        meant = closest(name[:_SHOWN].lower(), tuple(known))
        if meant is not None:
            raise BadRequestError(f"There is no parameter {shown(name)!r}: did you mean {meant}?")


async def refuse_parameters() -> None:
    """Raise `BadRequestError` if a call has parameters that TorchServe's of its kind do not have.

    What they were meant to restrict would happen to all.
    """
    given = await given_parameters() if await request.get_data() else request.args
    unknown = sorted(given.keys() - _OF_ANY_CHANGE)
    if unknown:
        raise BadRequestError(f"This call has no parameter {shown(unknown[0])!r}.")


def shown(value: object) -> str:
    """Return what an error says of a value."""
    text = str(value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"


def json_response(value: object, status: int = 200) -> Response:
    """Return a response of JSON as TorchServe writes it."""
    return Response(pretty(value), status=status, content_type="application/json")
