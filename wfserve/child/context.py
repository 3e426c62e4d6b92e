"""The handler's Context is made once, and told of each call before it begins.

`ts` is imported by name, never as a part of wfserve: it is on the path of worker processes only.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from functools import lru_cache
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import orjson

from wfserve.child.recorded import encode_metrics

if TYPE_CHECKING:
    from collections.abc import Sequence

    from wfserve.child.spec import WorkerSpec


REMEMBERED: Final = 64  # clients' headers: each node of a chain looks at the same
_NONE: Final[Mapping[str, str]] = {}


class _Sent(NamedTuple):
    """What a client sent; shared by all who look at it, who must not change it."""

    as_spelled: Mapping[str, str]
    in_lower_case: Mapping[str, str]  # of names that differ in case only, the first counts


@lru_cache(REMEMBERED)
def _parsed(encoded: bytes) -> _Sent:
    sent: dict[str, str] = dict(orjson.loads(encoded) if encoded else ())
    return _Sent(sent, {name.lower(): value for name, value in reversed(sent.items())})


class Headers(Mapping[str, Any]):
    """A client's headers as it spelled them, parsed when first looked at; of equal names the last counts.

    A start node's parameters are among them, as TorchServe has it: `{"body": {"content-type": …}}`.
    """

    __slots__ = ("_encoded", "_parameters", "_values")

    def __init__(self, encoded: bytes) -> None:
        self._encoded = encoded
        self._values: dict[str, Any] | None = None
        self._parameters: Mapping[str, str] = _NONE

    def add_parameters(self, content_types: Mapping[str, str]) -> None:
        """Add entries for parameters, whose content types come by their names; a header of that name wins."""
        self._parameters = content_types
        self._values = None

    def content_type(self) -> str:
        """Return the content type of the body, empty if the client gave none."""
        return self.find("content-type") or ""

    def find(self, lower: str) -> str | None:
        """Return the value of a header, whose name is given in lower case; None if the client sent none."""
        return _parsed(self._encoded).in_lower_case.get(lower)

    def named(self, key: str) -> Any:
        """Return the entry `key`, else the first that differs in case only; None if there is none."""
        values = self._all()
        if key in values:
            return values[key]
        lower = key.lower()
        for name in self._parameters:
            if name.lower() == lower:
                return values[name]
        return self.find(lower)

    def _all(self) -> dict[str, Any]:
        if self._values is None:
            self._values = {name: {"content-type": each} for name, each in self._parameters.items()}
            self._values.update(_parsed(self._encoded).as_spelled)
        return self._values

    def __getitem__(self, key: str) -> Any:
        return self._all()[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self._all())

    def __len__(self) -> int:
        return len(self._all())


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
