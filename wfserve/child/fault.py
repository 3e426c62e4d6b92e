"""What goes wrong in a node becomes a `message.Fault`; a traceback never leaves the process.

Codes and texts are TorchServe's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from wfserve.transport.message import Fault, LoadFailure

if TYPE_CHECKING:
    from collections.abc import Sequence

INTERNAL: Final = "InternalServerException"
PREDICTION: Final = "PredictionException"
UNSUPPORTED: Final = "Unsupported model output data type."
OUT_OF_RESOURCES: Final = Fault(507, INTERNAL, "Out of resources")
NOT_A_LIST: Final = Fault(503, INTERNAL, "Invalid model predict output")
RESPONSE_UNSOUND: Final = Fault(503, INTERNAL, "The status or headers of the response cannot be sent.")
WRONG_LENGTH: Final = Fault(503, INTERNAL, "number of batch response mismatched")


class NodeError(Exception):
    """An item cannot be read, or its result cannot be sent on; says which fault that is."""

    def __init__(self, message: str, code: int = 503, kind: str = INTERNAL) -> None:
        super().__init__(message)
        self.fault = Fault(code, kind, message, splittable=False)


def fault_of(error: Exception, prediction_exception: type[Any]) -> Fault:
    """Return what the client may know of an exception that a handler raised."""
    if isinstance(error, prediction_exception):
        return Fault(_status(error.error_code), PREDICTION, str(error.message))
    if _is_memory(error):
        return OUT_OF_RESOURCES
    return Fault(503, INTERNAL, "Prediction failed")


def sending_fault_of(error: Exception) -> Fault:
    """Return what the client may know of an exception raised while one item's result was encoded."""
    if isinstance(error, NodeError):
        return error.fault
    return alone(OUT_OF_RESOURCES if _is_memory(error) else Fault(503, INTERNAL, UNSUPPORTED))


def load_failure_of(error: BaseException) -> LoadFailure:
    """Return why a handler could not be loaded."""
    if _is_memory(error):
        return LoadFailure(507, "System out of memory")
    if isinstance(error, RuntimeError):
        return LoadFailure(500, "Unknown exception")
    return LoadFailure(500, f"{type(error).__name__}: {error}")


def alone(fault: Fault) -> Fault:
    """Return the fault of an item that ran by itself: there is nothing to split."""
    return fault._replace(splittable=False)


def for_batch(fault: Fault, batch: Sequence[object]) -> list[Fault]:
    """Return the fault once an item of `batch`, which ran as one."""
    return [fault._replace(splittable=len(batch) > 1)] * len(batch)


def _is_memory(error: BaseException) -> bool:
    return isinstance(error, MemoryError) or "CUDA" in str(error)


def _status(code: object) -> int:
    """Return the status of a `PredictionException`; one that is no error's would say that it is none."""
    return code if isinstance(code, int) and 400 <= code <= 599 else 500
