"""What a stage says to an attempt that it does not take: 503 each, since all of them pass."""

from __future__ import annotations

from wfserve.errors import NoWorkerError, ServiceUnavailableError, TooLateError


def no_worker(stage: str) -> NoWorkerError:
    """Say that a stage may have no worker."""
    return NoWorkerError(
        f'Model "{stage}" has no worker to serve inference request. Please use scale '
        "workers API to add workers. If this is a sequence inference, please check if it is closed, or "
        "expired; or exceeds maxSequenceJobQueueSize"
    )


def queue_full(stage: str, limit: int) -> ServiceUnavailableError:
    """Say that as many wait at a stage as may."""
    return ServiceUnavailableError(f"The queue of {stage} is full, {limit} requests wait.", retry_after=1)


def too_late(stage: str) -> TooLateError:
    """Say that an attempt would end after its deadline."""
    return TooLateError(f"{stage} is too busy to answer before the request's deadline.", retry_after=1)
