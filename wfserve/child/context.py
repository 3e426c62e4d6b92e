"""The handler's Context is made once, and told of each call before it begins.

`ts` is imported by name, never as a part of wfserve: it is on the path of worker processes only.
"""

from __future__ import annotations

import importlib
from operator import attrgetter
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from wfserve.child.headers import Headers  # noqa: TC001 - mypyc looks at the fields of a named tuple
from wfserve.child.recorded import encode_metrics

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wfserve.child.spec import WorkerSpec


class Job(NamedTuple):
    """One item as the handler gets it: what it is called, its headers, its row of the batch."""

    request_id: str
    headers: Headers
    row: dict[str, Any]
    direct: bool = False  # a client called this node alone

    @property
    def describes(self) -> bool:
        """Whether the handler is to describe itself: there is no row then."""
        return not self.row and self.direct and asks_to_describe(self.headers)


_HAS_SPOKEN = attrgetter("has_spoken")


def asks_to_describe(headers: Mapping[str, Any]) -> bool:
    """Whether headers of a direct call are those of `GET /models/{W__N}?customized=true`."""
    return headers.get("describe") == "True"


def _metrics_store(spec: WorkerSpec) -> Any:
    """Return the store of the worker's metrics, with the definitions of a metrics.yaml if there is one.

    Raises `ts.metrics.metric_cache_errors.MetricsCache…Error` if that file cannot be read or is wrong.
    """
    if spec.metrics_config is None:
        return importlib.import_module("ts.metrics.metrics_store").MetricsStore({}, spec.name)
    module = importlib.import_module("ts.metrics.metric_cache_yaml_impl")
    store = module.MetricsCacheYamlImpl(spec.metrics_config, spec.name, is_taken=True)
    store.set_request_ids({})
    store.initialize_cache()
    return store


class NodeContext:
    """Holds the one `ts.context.Context` of this worker."""

    def __init__(self, spec: WorkerSpec) -> None:
        module = importlib.import_module("ts.context")
        self._processor = module.RequestProcessor
        self._name = spec.name
        self._metrics = _metrics_store(spec)
        self.context = module.Context(
            spec.name,
            spec.model_dir,
            spec.manifest,
            spec.batch_size,
            spec.gpu_id,
            limit_max_image_pixels=spec.limit_max_image_pixels,
            metrics=self._metrics,
            model_yaml_config=spec.model_config,
        )

    def begin(self, jobs: Sequence[Job], name: str) -> None:
        """Tell the context which requests the next call is for, and by which name the node is registered."""
        context = self.context
        if name != self._name:
            self._name = context.model_name = self._metrics.model_name = name
        context.request_ids = {index: job.request_id for index, job in enumerate(jobs)}
        context.request_processor = [self._processor(job.headers) for job in jobs]
        self._metrics.set_request_ids(context.request_ids)
        context.metrics = self._metrics

    def take_metrics(self) -> bytes:
        """Return what handlers recorded since the last time, as JSON; empty if nothing."""
        recorded = self._metrics.take()
        return encode_metrics(recorded) if recorded else b""

    def is_silent(self) -> bool:
        """Say whether the handler has set nothing, for none of the responses."""
        try:
            return not any(map(_HAS_SPOKEN, self.context.request_processor))
        except Exception:  # it has put something of its own there
            return False

    def response(self, index: int) -> bytes:
        """Return what the handler set for the response `index`: JSON, empty if it set nothing."""
        processor = self.context.request_processor[index]
        given = processor.get_response_headers()
        if not given and processor.reported_status is None:
            return b""
        headers = {str(key): str(value) for key, value in given.items()}
        said = {"status": processor.reported_status, "headers": headers}
        said["content_type"] = next(
            (headers.pop(name) for name in tuple(headers) if name.lower() == "content-type"), None
        )
        return orjson.dumps({key: value for key, value in said.items() if value})
