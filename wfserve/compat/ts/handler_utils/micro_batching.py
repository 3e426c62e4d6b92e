"""A batch goes through a handler's steps in parts, so that one part is prepared while another is computed."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from concurrent.futures import Future

    from ..context import Context

HANDLER_METHODS = ("preprocess", "inference", "postprocess")


class MicroBatching:
    """Stands in for a handler's `handle`: `self.handle = MicroBatching(self, 4)`.

    A step's threads take parts in order; `parallelism` says how many threads each step has, 1 if unnamed.
    """

    def __init__(
        self, parent_handler: Any, micro_batch_size: int = 1, parallelism: Mapping[str, int] | None = None
    ) -> None:
        self.handler = parent_handler
        self.micro_batch_size = micro_batch_size
        self._parallelism: dict[str, int] = {}
        self._executors: dict[str, ThreadPoolExecutor] = {}
        self._local = threading.local()
        self.parallelism = {**dict.fromkeys(HANDLER_METHODS, 1), **(parallelism or {})}

    @property
    def parallelism(self) -> dict[str, int]:
        """How many threads each step has."""
        return dict(self._parallelism)

    @parallelism.setter
    def parallelism(self, parallelism: Mapping[str, int]) -> None:
        """Change the steps that are named. Raises `ValueError` for another name, or fewer than one thread."""
        unknown = set(parallelism).difference(HANDLER_METHODS)
        if unknown:
            raise ValueError(f"not a step of a handler: {', '.join(sorted(unknown))}")
        for step, threads in parallelism.items():
            executor = ThreadPoolExecutor(threads, thread_name_prefix=step)
            if step in self._executors:
                self._executors[step].shutdown()
            self._executors[step] = executor
            self._parallelism[step] = threads

    @property
    def thread_groups(self) -> dict[str, list[str]]:
        """The names of each step's threads."""
        return {step: [f"{step}_{index}" for index in range(n)] for step, n in self._parallelism.items()}

    def __call__(self, data: Sequence[Any], context: Context) -> list[Any]:
        """Answer a batch, as the handler's own `handle` would."""
        answer: list[Any] = self.handler.answer(data, context, self.handle)
        return answer

    def handle(self, data: Sequence[Any]) -> list[Any]:
        """Return the rows' results in order. Raises what the first part to fail raised."""
        size = self.micro_batch_size
        parts = [data[start : start + size] for start in range(0, len(data), size)]
        last = [self._submit(index, part) for index, part in enumerate(parts)]
        return [result for part in last for result in part.result()]

    def _submit(self, index: int, part: Sequence[Any]) -> Future[Any]:
        prepared = self._executors["preprocess"].submit(self._run, index, "preprocess", part)
        computed = self._executors["inference"].submit(self._run_after, index, "inference", prepared)
        return self._executors["postprocess"].submit(self._run_after, index, "postprocess", computed)

    def _run_after(self, index: int, step: str, before: Future[Any]) -> Any:
        return self._run(index, step, before.result())

    def _run(self, index: int, step: str, data: Any) -> Any:
        self._local.micro_batch_idx = index
        return getattr(self.handler, step)(data)

    def get_micro_batch_idx(self) -> int | None:
        """Return the position of the part that the calling step works on, None outside of one."""
        return getattr(self._local, "micro_batch_idx", None)

    def shutdown(self) -> None:
        """End the threads."""
        for executor in self._executors.values():
            executor.shutdown()
