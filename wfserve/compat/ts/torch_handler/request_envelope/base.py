"""An envelope stands between the worker and a handler; what breaks its protocol is refused with 400."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any

import orjson

from ...utils.util import PredictionException
from ..base_handler import row_value

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from ...context import Context


class BaseEnvelope(ABC):
    """Wraps `handle_fn(data, context)`; subclasses translate both ways."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        self._handle_fn = handle_fn
        self.context: Any = None

    def handle(self, data: Any, context: Context) -> Any:
        """Answer a batch. Raises `PredictionException` for a request that the protocol does not know."""
        self.context = context
        results = self._handle_fn(self.parse_input(data) if data else data, context)
        return self.format_output(results) if results else results

    @abstractmethod
    def parse_input(self, data: Sequence[Any]) -> Any:
        """Return the rows for the handler."""

    @abstractmethod
    def format_output(self, data: Any) -> Any:
        """Return the responses, one for each request."""


class JoiningEnvelope(BaseEnvelope):
    """A request carries rows of its own: those of a batch are joined, and their results parted again."""

    def __init__(self, handle_fn: Callable[[Any, Any], Any]) -> None:
        super().__init__(handle_fn)
        self._requests: list[tuple[list[Any], Any]] = []

    @abstractmethod
    def opened(self, row: Mapping[str, Any]) -> tuple[list[Any], Any]:
        """Return a request's rows, and what its response repeats of it. Raises `PredictionException`."""

    @abstractmethod
    def response(self, index: int, results: Any, repeated: Any) -> Any:
        """Return what answers request `index` of the batch, given the results of its rows."""

    def parse_input(self, data: Sequence[Any]) -> list[Any]:
        """Return the rows of all requests."""
        self._requests = [self.opened(row) for row in data]
        return [each for rows, _ in self._requests for each in rows]

    def format_output(self, data: Any) -> list[Any]:
        """Return a response for each request."""
        parts = split(data, [len(rows) for rows, _ in self._requests])
        repeated = [each for _, each in self._requests]
        return [
            self.response(index, part, said)
            for index, (part, said) in enumerate(zip(parts, repeated, strict=True))
        ]


class InstancesEnvelope(JoiningEnvelope):
    """Requests are `{"instances": […]}`, a row is an instance; each is answered `{"predictions": […]}`."""

    def opened(self, row: Mapping[str, Any]) -> tuple[list[Any], Any]:
        """Return a request's instances."""
        return message(row, "instances")["instances"], None

    def response(self, index: int, results: Any, repeated: Any) -> Any:
        """Return the predictions of one request."""
        return {"predictions": results}


def message(row: Mapping[str, Any], key: str) -> dict[str, Any]:
    """Return a request's JSON object, under `data`, `body` or the row itself, whose `key` is a list.

    A body that came with another content type is decoded here. Raises `PredictionException`.
    """
    value = row_value(row)
    if isinstance(value, (bytes, bytearray, memoryview, str)):
        try:
            value = orjson.loads(value)
        except orjson.JSONDecodeError as error:
            raise PredictionException(f"the request is not JSON: {error}", 400) from None
    value = row if value is None else value
    if not isinstance(value, dict) or not isinstance(value.get(key), list):
        raise PredictionException(f'the request is not a JSON object with a list of "{key}"', 400)
    return value


def split(results: Any, lengths: Sequence[int]) -> list[Any]:
    """Return the results request by request. One request gets all of them, be they a list or not."""
    if len(lengths) == 1:
        return [results]
    ends = [sum(lengths[: index + 1]) for index in range(len(lengths))]
    return [results[end - length : end] for end, length in zip(ends, lengths, strict=True)]
