"""Steps of a handler are timed only when model-config.yaml says `handler: {profile: true}`."""

from __future__ import annotations

import functools
import time
from typing import TYPE_CHECKING, Any, TypeVar, cast

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    Step = TypeVar("Step", bound=Callable[..., Any])


def timed(func: Step) -> Step:
    """Record how long the method took as `ts_handler_<its name>`, in milliseconds.

    On a GPU that includes the work it started there.
    """

    @functools.wraps(func)
    def wrapper(self: Any, *args: Any, **kwargs: Any) -> Any:
        if not _is_profiled(self.context):
            return func(self, *args, **kwargs)
        started = _now()
        result = func(self, *args, **kwargs)
        self.context.metrics.add_time(f"ts_handler_{func.__name__}", (_now() - started) * 1000)
        return result

    return cast("Step", wrapper)


def _is_profiled(context: Any) -> bool:
    config = context.model_yaml_config.get("handler") if context else None
    return isinstance(config, dict) and bool(config.get("profile"))


def _now() -> float:
    """Return seconds, once the GPU has caught up if this worker uses one."""
    if torch.cuda.is_initialized():  # type: ignore[no-untyped-call]
        torch.cuda.synchronize()
    return time.perf_counter()
