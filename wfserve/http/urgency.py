"""`X-Timeout-Ms` and `X-Priority` are whole numbers in range, or the request is refused."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import trio

from wfserve.errors import BadRequestError
from wfserve.scheduling.policy import DEFAULT_PRIORITY, HIGHEST_PRIORITY

if TYPE_CHECKING:
    from wfserve.http.respond import Headers

TIMEOUT = b"x-timeout-ms"
PRIORITY = b"x-priority"
LONGEST_MS = 2**31 - 1
NO_HURRY = (math.inf, DEFAULT_PRIORITY)


def in_hurry(headers: Headers) -> bool:
    """Whether a client says anything of its hurry."""
    return any(name in (TIMEOUT, PRIORITY) for name, _ in headers)


def asked_for(headers: Headers) -> tuple[float, int]:
    """Return by when (trio clock) a client wants its answer, infinity if it does not say, and its priority.

    Raises `BadRequestError`.
    """
    deadline, priority = NO_HURRY
    for name, value in headers:
        if name == TIMEOUT:
            deadline = trio.current_time() + _number(TIMEOUT, value, 1, LONGEST_MS) / 1000
        elif name == PRIORITY:
            priority = _number(PRIORITY, value, 0, HIGHEST_PRIORITY)
    return deadline, priority


def _number(name: bytes, value: bytes, least: int, most: int) -> int:
    text = value.strip()
    if not (text.isdigit() and len(text) <= 10 and least <= int(text) <= most):
        raise BadRequestError(f"{name.decode().title()} must be a whole number from {least} to {most}.")
    return int(text)
