"""The handler's Context is made once, and told of each call before it begins.

`ts` is imported by name, never as a part of wfserve: it is on the path of worker processes only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import orjson

from wfserve.child.recorded import encode_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.form import Parameter
    from wfserve.child.spec import WorkerSpec


class Headers(Mapping[str, Any]):
    """A client's headers as it spelled them, parsed when first looked at; of equal names the last counts.

    A start node's parameters are among them, as TorchServe has it: `{"body": {"content-type": …}}`.
    """

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._values: dict[str, Any] | None = None
        self._parameters: Sequence[Parameter] = ()

    def add_parameters(self, parameters: Sequence[Parameter]) -> None:
        """Add entries for parameters; a header of the same name wins."""
        self._parameters = parameters
        self._values = None

    def content_type(self) -> str:
        """Return the content type of the body, empty if the client gave none."""
        return self.find("content-type") or ""

    def find(self, lower: str) -> str | None:
        """Return the value of a header, whose name is given in lower case; None if the client sent none."""
        found = (value for name, value in self._parsed().items() if name.lower() == lower)
        return next((value for value in found if isinstance(value, str)), None)

    def _parsed(self) -> dict[str, Any]:
        if self._values is None:
            values: dict[str, Any] = {
                parameter.name: {"content-type": parameter.content_type} for parameter in self._parameters
            }
            values.update(orjson.loads(self._encoded) if self._encoded else ())
            self._values = values
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._parsed()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._parsed())

    def __len__(self) -> int:
        return len(self._parsed())


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

    def begin(self, jobs: Sequence[Job]) -> None:
        """Tell the context which requests the next call is for."""
        context = self.context
        context.request_ids = {index: job.request_id for index, job in enumerate(jobs)}
        context.request_processor = [self._processor(job.headers) for job in jobs]
        self._metrics.set_request_ids(context.request_ids)
        context.metrics = self._metrics

    def take_metrics(self) -> bytes:
        """Return what handlers recorded since the last time, as JSON; empty if nothing."""
        recorded = self._metrics.take()
        return encode_metrics(recorded) if recorded else b""

    def response(self, index: int) -> bytes:
        """Return what the handler set for the response `index`: JSON, empty if it set nothing."""
        processor = self.context.request_processor[index]
        headers = {str(key): str(value) for key, value in processor.get_response_headers().items()}
        if not headers and processor.reported_status is None:
            return b""
        said = {"status": processor.reported_status, "headers": headers}
        said["content_type"] = next(
            (headers.pop(name) for name in tuple(headers) if name.lower() == "content-type"), None
        )
        return orjson.dumps({key: value for key, value in said.items() if value})
