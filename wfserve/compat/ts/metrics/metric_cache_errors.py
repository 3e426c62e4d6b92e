"""Errors of looking up, defining and reading metrics; each is also the built-in error of its kind."""

from __future__ import annotations

import yaml


class MetricsCacheKeyError(KeyError):
    """No such metric, or metrics.yaml lacks a key."""


class MetricsCacheTypeError(TypeError):
    """A name, unit or type is not what it has to be."""


class MetricsCacheValueError(ValueError):
    """A unit that does not fit, or an empty section of metrics.yaml."""


class MetricsCacheIOError(OSError):
    """metrics.yaml cannot be read."""


class MetricsCachePyYamlError(yaml.YAMLError):
    """metrics.yaml is not YAML."""
