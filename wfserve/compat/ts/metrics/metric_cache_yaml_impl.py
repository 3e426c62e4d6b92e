"""A store whose metrics are defined by the `model_metrics` section of a metrics.yaml."""

from __future__ import annotations

from operator import itemgetter
from typing import Any

import yaml

from .metric_cache_errors import (
    MetricsCacheIOError,
    MetricsCacheKeyError,
    MetricsCachePyYamlError,
    MetricsCacheValueError,
)
from .metric_type_enum import MetricTypes
from .metrics_store import MetricsStore

_MODEL_METRICS = "model_metrics"
_TYPES = tuple(each.value for each in MetricTypes)
_definition = itemgetter("name", "unit", "dimensions")


class MetricsCacheYamlImpl(MetricsStore):
    """Reads the file when made, and defines its metrics when told to.

    One that a handler makes for itself is not `is_taken`: nobody but it knows of what is recorded.
    """

    def __init__(self, config_file_path: str, model_name: str = "", *, is_taken: bool = False) -> None:
        """Read the file. Raises `MetricsCacheIOError`, or `MetricsCachePyYamlError` if it is no YAML."""
        super().__init__(None, model_name, is_taken=is_taken)
        self.config_file_path = config_file_path
        try:
            with open(config_file_path, encoding="utf-8") as file:
                self._parsed_file = yaml.safe_load(file)
        except OSError as error:
            raise MetricsCacheIOError(f"Error reading file {config_file_path}: {error}") from error
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise MetricsCachePyYamlError(f"Error parsing file {config_file_path}: {error}") from error

    def initialize_cache(self) -> None:
        """Define the metrics that handlers find with `get_metric`.

        Raises `MetricsCacheKeyError` for a section, type or key that is missing or unknown,
        `MetricsCacheValueError` for an empty section, `MetricsCacheTypeError` for a value of the wrong kind.
        """
        section = self._parse_metrics_section()
        if not section:
            raise MetricsCacheValueError(f"Missing `{_MODEL_METRICS}` specification")
        for type_name, metrics in section.items():
            if type_name not in _TYPES:
                raise MetricsCacheKeyError(f"{type_name} is not a metric type: {', '.join(_TYPES)}")
            for metric in metrics or ():
                try:
                    name, unit, dimensions = _definition(metric)
                except KeyError as error:
                    raise MetricsCacheKeyError(f"Key not found in cache spec: {error}") from None
                self.add_metric_to_cache(name, unit, dimensions, MetricTypes(type_name))

    def _parse_metrics_section(self, key: str = _MODEL_METRICS) -> Any:
        if not isinstance(self._parsed_file, dict) or key not in self._parsed_file:
            raise MetricsCacheKeyError(f"'{key}' key not found in yaml file: {key!r}")
        return self._parsed_file[key]
