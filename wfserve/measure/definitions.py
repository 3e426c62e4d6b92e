"""Definitions say which metrics with TorchServe's names there are: all of them, or those of a metrics.yaml.

As TorchServe reads that file, `ts_metrics` selects from what the server counts, and `model_metrics` gives
what handlers record its type and labels; the values of labels are matched by position. What handlers record
under other names is shown as they record it, as TorchServe does with `model_metrics_auto_detect`.
"""

from __future__ import annotations

import logging
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple

import yaml

from wfserve.measure.family import KINDS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from wfserve.measure.family import Kind

log = logging.getLogger(__name__)
MAX_BYTES = 1 << 20


class Definition(NamedTuple):
    """One metric: how its values add up, what they are measured in, and the names of its labels."""

    kind: Kind
    unit: str
    labels: tuple[str, ...]

    @property
    def help(self) -> str:
        """Return the line that explains it."""
        return f"As TorchServe's metric of this name, in {self.unit}"


PREDICTION_TIME = "PredictionTime"  # TorchServe's workers record it as handlers record theirs
_HOST = ("Level", "Hostname")
_MODEL = ("model_name", "model_version", "hostname")
_GPU = ("Level", "DeviceId", "Hostname")
TORCHSERVE: Mapping[str, Definition] = {
    "Requests2XX": Definition("counter", "Count", _HOST),
    "Requests4XX": Definition("counter", "Count", _HOST),
    "Requests5XX": Definition("counter", "Count", _HOST),
    "ts_inference_requests_total": Definition("counter", "Count", _MODEL),
    "ts_inference_latency_microseconds": Definition("counter", "Microseconds", _MODEL),
    "ts_queue_latency_microseconds": Definition("counter", "Microseconds", _MODEL),
    "QueueTime": Definition("gauge", "Milliseconds", _HOST),
    "WorkerThreadTime": Definition("gauge", "Milliseconds", _HOST),
    "WorkerLoadTime": Definition("gauge", "Milliseconds", ("WorkerName", *_HOST)),
    PREDICTION_TIME: Definition("gauge", "ms", ("ModelName", "Level", "Hostname")),
    "CPUUtilization": Definition("gauge", "Percent", _HOST),
    "MemoryUsed": Definition("gauge", "Megabytes", _HOST),
    "MemoryAvailable": Definition("gauge", "Megabytes", _HOST),
    "MemoryUtilization": Definition("gauge", "Percent", _HOST),
    "DiskUsage": Definition("gauge", "Gigabytes", _HOST),
    "DiskAvailable": Definition("gauge", "Gigabytes", _HOST),
    "DiskUtilization": Definition("gauge", "Percent", _HOST),
    "GPUMemoryUtilization": Definition("gauge", "Percent", _GPU),
    "GPUMemoryUsed": Definition("gauge", "Megabytes", _GPU),
    "GPUUtilization": Definition("gauge", "Percent", _GPU),
}


class Definitions(NamedTuple):
    """What is shown of what the server counts, and how what handlers record is."""

    server: Mapping[str, Definition] = TORCHSERVE
    model: Mapping[str, Definition] = MappingProxyType({})


EVERYTHING = Definitions()


def load(path: Path | None) -> Definitions:
    """Read a metrics.yaml. What is wrong with it is logged and costs no more than itself."""
    if path is None:
        return EVERYTHING
    try:
        content = yaml.load(_read(path), Loader=_Plain)
        if not isinstance(content, dict):
            raise ValueError("it is not a mapping")
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        log.error("metrics_config %s cannot be read, all metrics are shown: %s", path, error)
        return EVERYTHING
    model = {n: d._replace(labels=(*d.labels, "Hostname")) for n, d in _section(content, "model_metrics")}
    server = dict(_section(content, "ts_metrics"))
    if PREDICTION_TIME in model:
        server[PREDICTION_TIME] = model.pop(PREDICTION_TIME)
    return Definitions({name: each for name, each in server.items() if _is_torchserves(name, each)}, model)


def _read(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        text = file.read(MAX_BYTES + 1)
    if len(text) > MAX_BYTES:
        raise ValueError(f"it is over {MAX_BYTES} characters")
    return text


class _Plain(yaml.SafeLoader):
    """Plain data; an alias stands for a text, as those of dimensions do, so that none can multiply."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        aliased = self.check_event(yaml.events.AliasEvent)
        node = super().compose_node(parent, index)
        if aliased and not isinstance(node, yaml.ScalarNode):
            raise yaml.YAMLError("an alias stands for more than a text")
        return node


def _section(content: Mapping[str, Any], section: str) -> Iterator[tuple[str, Definition]]:
    types = content.get(section)
    for kind in KINDS:
        given = types.get(kind) if isinstance(types, dict) else None
        for entry in given if isinstance(given, list) else ():
            try:
                labels = tuple(str(label) for label in entry.get("dimensions") or ())
                yield str(entry["name"]), Definition(kind, str(entry["unit"]), labels)
            except (AttributeError, KeyError, TypeError):
                log.error("metrics_config: %r is no metric with a name, unit and dimensions", entry)


def _is_torchserves(name: str, given: Definition) -> bool:
    """Whether the server counts such a metric, with as many labels and of this type."""
    known = TORCHSERVE.get(name)
    if known is None:
        log.warning("metrics_config: there is no %s to be counted", name)
    elif len(known.labels) != len(given.labels) or known.kind != given.kind:
        log.warning("metrics_config: %s is not shown, it is a %s with labels %s", name, *known[::2])
    else:
        return True
    return False
