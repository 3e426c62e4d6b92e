"""The part of TorchServe's service module that handlers call."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable

    from .metrics.metric import Metric

logger = logging.getLogger(__name__)


def emit_metrics(metrics: Iterable[Metric]) -> None:
    """Log the metrics, one line each."""
    for metric in metrics:
        logger.info("[METRICS]%s", metric)
