"""What the server itself refuses to clients; the answers look like every other error's.

And what ends a connection without one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from wfserve.errors import BadRequestError, WfserveError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence


def _uncounted(_status: int) -> None:
    """Count nothing."""


class OwnAnswers(NamedTuple):
    """What goes with each answer that the server gives in the application's place."""

    headers: Sequence[tuple[bytes, bytes]] = ()
    counted: Callable[[int], object] = _uncounted  # is told the status


class BadMessageError(BadRequestError):
    """What arrived is no HTTP request, or an ambiguous one (400)."""

    def __init__(self) -> None:
        super().__init__("Invalid HTTP message.")


class RequestTimeoutError(WfserveError):
    """The request did not arrive in time (408)."""

    status = 408
    type = "RequestTimeoutException"

    def __init__(self) -> None:
        super().__init__("The request did not arrive in time.")


class ExpectationError(WfserveError):
    """`Expect` asks for something else than `100-continue` (417)."""

    status = 417
    type = "ExpectationFailedException"

    def __init__(self) -> None:
        super().__init__("No expectation but 100-continue can be met.")


class HeadTooLargeError(WfserveError):
    """The request line and headers are over their limit (431)."""

    status = 431
    type = "RequestHeaderFieldsTooLargeException"

    def __init__(self, limit: str) -> None:
        super().__init__(f"The request's headers are over {limit}.")


class UnknownFeatureError(WfserveError):
    """A method or a transfer coding that this server does not know (501)."""

    status = 501
    type = "NotImplementedException"

    def __init__(self, what: str) -> None:
        super().__init__(f"This server does not know the request's {what}.")


class WaitExpiredError(Exception):
    """The client has not done in time what was waited for."""


class GoneError(ConnectionError):
    """The client has gone, or has stopped reading."""
