"""What a call wants changed is read as a whole: one parameter that is wrong or unknown refuses all of it."""

from __future__ import annotations

import math
import re
from typing import TYPE_CHECKING, Any

from wfserve.errors import BadRequestError
from wfserve.http.parameters import decided, refuse_unknown, shown, text
from wfserve.state.naming import check_version
from wfserve.state.records import LiveSettings, Traffic

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.registry.prepare import Blueprint

_FIELDS = {
    "min_worker": "min_workers",
    "max_worker": "max_workers",
    "batch_size": "batch_size",
    "max_batch_delay": "max_batch_delay_ms",
    "timeout_ms": "timeout_ms",
    "retry_attempts": "retry_attempts",
}
_OF_MODELS = frozenset({"min_worker", "max_worker", "batch_size", "max_batch_delay"})
_OF_BATCHES = frozenset({"batch_size", "max_batch_delay"})
_INTEGER = re.compile(r"-?[0-9]{1,18}")  # what is out of range is told so
_TRAFFIC = ("weights", "sticky_header", "shadow")


def settings_of_nodes(blueprint: Blueprint, given: Mapping[str, Any]) -> dict[str, LiveSettings]:
    """Return the settings that `given` changes, by node: of one `node`, else of all that can have them.

    Functions have a timeout and attempts, as in a specification; workers where they are named alone. Raises
    `BadRequestError`.
    """
    refuse_unknown(given, (*_FIELDS, "node"))
    values = {name: _integer(name, given[name]) for name in _FIELDS if given.get(name) is not None}
    if not values:
        raise BadRequestError(f"Nothing is to be changed: give one of {', '.join(_FIELDS)}.")
    node = text(given, "node")
    if node is not None:
        return {node: _of_one(blueprint, node, values)}
    found = {each: _fitting(blueprint, each, values) for each in blueprint.nodes}
    changed = {each: _live(fitting) for each, fitting in found.items() if fitting}
    if not changed:
        raise BadRequestError(f"Workflow {blueprint.name} has no models: {', '.join(values)} mean nothing.")
    return changed


def _of_one(blueprint: Blueprint, node: str, values: Mapping[str, int]) -> LiveSettings:
    if node not in blueprint.nodes:
        raise BadRequestError(f"Workflow {blueprint.name} has no node {node!r}.")
    foreign = sorted(_OF_BATCHES & values.keys())
    if blueprint.nodes[node].worker.is_function and foreign:
        raise BadRequestError(f"{foreign[0]} is not a setting of functions, which take one request a call.")
    return _live(values)


def _fitting(blueprint: Blueprint, node: str, values: Mapping[str, int]) -> dict[str, int]:
    of_function = blueprint.nodes[node].worker.is_function
    return {name: value for name, value in values.items() if not (of_function and name in _OF_MODELS)}


def _live(values: Mapping[str, int]) -> LiveSettings:
    return LiveSettings(**{_FIELDS[name]: value for name, value in values.items()})


def _integer(name: str, value: object) -> int:
    if isinstance(value, str) and _INTEGER.fullmatch(value):
        return int(value)
    if type(value) is not int:  # true is no number
        raise BadRequestError(f"Parameter {name} is not a whole number: {shown(value)}")
    return value


def traffic_of(given: Mapping[str, Any]) -> Traffic | None:
    """Return what `given` says of traffic: `weights` as `{"1.0": 9, "2.0": 1}` or `1.0:9,2.0:1`.

    None, the default has all, if it gives neither weights nor a shadow. Raises `BadRequestError`.
    """
    refuse_unknown(given, _TRAFFIC)
    weights = {check_version(version): _weight(version, value) for version, value in _weights(given).items()}
    shadow, header = text(given, "shadow") or None, text(given, "sticky_header") or None
    if shadow is not None:
        check_version(shadow)
    if not weights and header is not None:
        raise BadRequestError("A sticky_header needs weights, which it decides between.")
    if not weights and shadow is None:
        return None
    return Traffic(weights, None if header is None else header.lower(), shadow)


def _weights(given: Mapping[str, Any]) -> dict[str, Any]:
    value = given.get("weights")
    if value is None or value == "":
        return {}
    if isinstance(value, dict):
        return value
    parts = [part.partition(":") for part in str(value).split(",")]
    weights = {version.strip(): weight for version, _, weight in parts}
    if len(weights) < len(parts):
        raise BadRequestError("Parameter weights names a version twice.")
    return weights


def _weight(version: str, value: object) -> float:
    try:
        weight = float(value) if isinstance(value, str | int | float) and value is not True else math.nan
    except (ValueError, OverflowError):
        weight = math.nan
    if math.isnan(weight):
        raise BadRequestError(f"The weight of version {shown(version)} is not a number: {shown(value)}")
    return weight


def recording_of(given: Mapping[str, Any], body: bytes) -> bool:
    """Return whether a sample is to be recorded, with `record=true`; else `body` is it.

    Raises `BadRequestError` if both are given or neither.
    """
    refuse_unknown(given, ("record",))
    if bool(decided(given, "record")) == bool(body):
        raise BadRequestError("Give the body of a request as the sample, or record=true without one.")
    return not body
