"""Every error a user can meet is a WfserveError, and knows its HTTP status and TorchServe type name.

They are raised where the cause is known and rendered in one place (`http/respond.py`); the command line
prints the message alone. Statuses, type names and texts are TorchServe 0.12.0's wherever it has one.
"""

from __future__ import annotations

from typing import ClassVar


class WfserveError(Exception):
    """Base of the tree; by itself an internal error (500)."""

    status: ClassVar[int] = 500
    type: ClassVar[str] = "InternalServerException"

    def __init__(self, message: str, *, code: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.code = self.status if code is None else code
        self.retry_after = retry_after  # seconds; becomes the Retry-After header

    def body(self) -> dict[str, object]:
        """Return the JSON body TorchServe answers with."""
        return {"code": self.code, "type": self.type, "message": self.message}


class InternalError(WfserveError):
    """Something failed on our side, or in a node (500)."""


class WorkerDiedError(InternalError):
    """The worker died that ran the call, or was killed because it took too long (500)."""


class BadRequestError(WfserveError):
    """The request cannot be understood (400)."""

    status = 400
    type = "BadRequestException"


class ConfigError(BadRequestError):
    """A setting or a flag is wrong; the command line exits with 2."""


class DownloadArchiveError(WfserveError):
    """An archive could not be fetched from where the client said (400)."""

    status = 400
    type = "DownloadArchiveException"


class InvalidDagError(WfserveError):
    """The specification's `dag` is not a DAG with one start node (400)."""

    status = 400
    type = "InvalidDAGException"


class NotFoundError(WfserveError):
    """No such resource (404)."""

    status = 404
    type = "ResourceNotFoundException"

    def __init__(
        self, message: str = "Requested resource is not found, please refer to API document."
    ) -> None:
        super().__init__(message)


class WorkflowNotFoundError(NotFoundError):
    """No such workflow, or no such workflow archive (404)."""

    type = "WorkflowNotFoundException"


class ModelNotFoundError(NotFoundError):
    """No such model, or no such model archive (404)."""

    type = "ModelNotFoundException"


class ModelVersionNotFoundError(NotFoundError):
    """The model has another version (404)."""

    type = "ModelVersionNotFoundException"


class ForbiddenError(WfserveError):
    """The request could be somebody else's, sent by a browser (403)."""

    status = 403
    type = "ForbiddenException"


class InvalidVersionError(WfserveError):
    """The version is the default of several, and cannot be removed before another is (403)."""

    status = 403
    type = "InvalidModelVersionException"


class MethodNotAllowedError(WfserveError):
    """The path exists, the method does not (405)."""

    status = 405
    type = "MethodNotAllowedException"

    def __init__(self) -> None:
        super().__init__("Requested method is not allowed, please refer to API document.")


class ConflictError(WfserveError):
    """The name is taken, or another change is under way (409)."""

    status = 409
    type = "ConflictStatusException"


class TooLargeError(WfserveError):
    """A body or an archive is over its limit (413)."""

    status = 413
    type = "RequestEntityTooLargeException"


class ServiceUnavailableError(WfserveError):
    """A queue or the arena is full, or the server is stopping (503)."""

    status = 503
    type = "ServiceUnavailableException"


class DeadlineError(WfserveError):
    """The client's own deadline has passed (504)."""

    status = 504
    type = "DeadlineExceededException"

    def __init__(
        self, message: str = "The request could not be answered before its deadline (X-Timeout-Ms)."
    ) -> None:
        super().__init__(message)


class TooLateError(ServiceUnavailableError):
    """The answer would come after the request's deadline (503)."""


class NoWorkerError(ServiceUnavailableError):
    """A node takes no more calls: its queue is full, or it may have no worker (503)."""


class OutOfMemoryError(WfserveError):
    """A handler ran out of memory (507)."""

    status = 507
    type = "OutOfMemoryException"


class InvalidWorkflowError(WfserveError):
    """The archive or its specification is not a valid workflow (500, as TorchServe has it)."""

    type = "InvalidWorkflowException"


class InvalidModelError(WfserveError):
    """A model archive is not valid (400, as every ModelException of TorchServe)."""

    status = 400
    type = "InvalidModelException"


class WorkflowError(WfserveError):
    """A workflow could not be registered or unregistered as a whole (500)."""

    type = "WorkflowException"


class FrameError(WfserveError):
    """Bytes in shared memory are not a frame: the child that wrote them cannot be trusted any more."""


class PredictionError(WfserveError):
    """A handler raised `PredictionException`: its code and message are meant for the client."""
