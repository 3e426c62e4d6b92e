"""What a worker process is told when it starts; plain picklable data, nothing that holds a resource."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import orjson

from wfserve.dtypes import DTYPES

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

DataFormat = Literal["bytes", "native"]


class Place(NamedTuple):
    """Where in which workflow a node stands: all that nodes with shared workers may differ in."""

    name: str  # registered model name, `W__N`
    parents: tuple[str, ...] = ()  # DAG names of the parent nodes; empty for the start node
    leaf: bool = False
    only_leaf: bool = False  # what it returns is the whole response, in the form that the client accepts

    def encoded(self) -> bytes:
        """Return the place as it is told to a worker with each batch."""
        return orjson.dumps([*self])

    @classmethod
    def read(cls, encoded: bytes) -> Place:
        """Return what `encoded` made."""
        name, parents, leaf, only_leaf = orjson.loads(encoded)
        return cls(name, tuple(parents), leaf, only_leaf)


@dataclass(frozen=True, slots=True)
class WorkerSpec:
    """One node's handler and its surroundings; equal specs make interchangeable workers."""

    name: str  # registered model name, `W__N`
    handler: str  # as the manifest has it; for a function node `<handler file>:<function>`
    model_dir: str  # where the archive was extracted; the worker's working directory
    is_function: bool = False
    manifest: Mapping[str, Any] | None = None  # None in function nodes, as in TorchServe
    model_config: Mapping[str, Any] = field(default_factory=dict)  # model-config.yaml
    parents: tuple[str, ...] = ()  # DAG names of the parent nodes; empty for the start node
    leaf: bool = False
    only_leaf: bool = False  # what it returns is the whole response, in the form that the client accepts
    batch_size: int = 1
    data_format: DataFormat = "bytes"
    copy_inputs: bool = False
    input_shape: tuple[int, ...] | None = None  # of the tensor in a raw body; None: bodies say themselves
    input_dtype: str = "float32"  # torch's name of its element type
    gpu_id: int | None = None
    threads: int = 1  # intra-op threads
    spin_us: int = 0  # that the worker waits awake for more, after a batch of few inputs
    decode_input_request: bool = True
    limit_max_image_pixels: bool = True
    service_envelope: str = ""  # empty, or the name of a module in `ts.torch_handler.request_envelope`
    metrics_config: str | None = None  # path of a metrics.yaml; None: only what handlers define themselves
    hidden_variables: str = ""  # regular expression of environment variables that the handler must not see
    python: str | None = None  # interpreter of the model's own environment; None: a child of the fork server
    packages: str | None = None  # directory its requirements were installed to, first on the import path

    @property
    def place(self) -> Place:
        """Return where in which workflow the node stands."""
        return Place(self.name, self.parents, self.leaf, self.only_leaf)

    def at(self, place: Place) -> WorkerSpec:
        """Return the same of a node that stands elsewhere."""
        return replace(self, **place._asdict())

    @property
    def may_be_many(self) -> bool:
        """Whether an input may be several rows, each of which the handler gets as an input."""
        return self.input_shape is not None and self.data_format == "native"

    @property
    def row_bytes(self) -> int | None:
        """Return the size of one declared input; None if none is declared."""
        return None if self.input_shape is None else math.prod(self.input_shape) * DTYPES[self.input_dtype]


def stage_name(chain: Sequence[WorkerSpec]) -> str:
    """Return what the workers that run `chain` are called."""
    return "+".join(spec.name for spec in chain)
