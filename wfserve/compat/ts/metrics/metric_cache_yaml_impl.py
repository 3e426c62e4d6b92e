"""A store whose metrics are defined by the `model_metrics` section of a metrics.yaml."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

from .metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheTypeError,
    MetricsCacheValueError,
)
from .metric_type_enum import MetricTypes
from .metrics_store import MetricsStore

if TYPE_CHECKING:
    from collections.abc import Mapping


class MetricsCacheYamlImpl(MetricsStore):
    """Reads the file when made, and defines its metrics when told to."""

    def __init__(self, config_file_path: str, model_name: str = "") -> None:
        """Read the file. Raises `MetricsCacheIOError`, or `MetricsCachePyYamlError` if it is no YAML."""
        super().__init__({}, model_name)
        self.config_file_path = config_file_path
        try:
            with open(config_file_path, encoding="utf-8") as file:
                self._content = yaml.safe_load(file)
        except OSError as error:
            raise MetricsCacheIOError(f"cannot read {config_file_path}: {error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MetricsCachePyYamlError(f"cannot parse {config_file_path}: {error}") from error

    def initialize_cache(self) -> None:
        """Define the metrics that handlers find with `get_metric`.

        Raises `MetricsCacheKeyError` for a section, type or key that is missing or unknown,
        `MetricsCacheValueError` for an empty section, `MetricsCacheTypeError` for a value of the wrong kind.
        """
        content = self._content if isinstance(self._content, dict) else {}
        if "model_metrics" not in content:
            raise MetricsCacheKeyError(f"{self.config_file_path} has no section model_metrics")
        if not content["model_metrics"]:
            raise MetricsCacheValueError(f"model_metrics of {self.config_file_path} is empty")
        for type_name, metrics in content["model_metrics"].items():
            for metric in metrics or ():
                self._define(type_name, metric)

    def _define(self, type_name: str, metric: Mapping[str, Any]) -> None:
        names = [each.value for each in MetricTypes]
        if type_name not in names:
            raise MetricsCacheKeyError(f"{type_name} is not a metric type: {', '.join(names)}")
        try:
            name, unit, dimensions = metric["name"], metric["unit"], metric["dimensions"]
        except KeyError as error:
            raise MetricsCacheKeyError(f"a metric of type {type_name} has no {error}") from None
        if not isinstance(dimensions, list):
            raise MetricsCacheTypeError(f"the dimensions of {name} are not a list")
        self.add_metric_to_cache(name, unit, dimensions, MetricTypes(type_name))
