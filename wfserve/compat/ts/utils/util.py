"""Helpers that handlers import by name; none of them keeps state."""

from __future__ import annotations

import functools
import importlib
import inspect
import json
import re
import warnings
from typing import TYPE_CHECKING, Any, TypeVar, cast

import yaml

from .pt2 import check_valid_pt2_backend as check_valid_pt2_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from types import ModuleType

    Function = TypeVar("Function", bound=Callable[..., Any])

CLEANUP_REGEX = re.compile("<.*?>|&(?:[a-z0-9]+|#[0-9]{1,6}|#x[0-9a-f]{1,6});")
"""Matches what a text should lose before it is read: tags and entities of HTML."""


class PredictionException(Exception):  # noqa: N818 (handlers import it by this name)
    """A handler's own answer to a request it refuses: the client receives `message` and `error_code`."""

    def __init__(self, message: str, error_code: int = 500) -> None:
        super().__init__(message)
        self.message = message
        self.error_code = error_code

    def __str__(self) -> str:
        return f"{self.message} : {self.error_code}"


def list_classes_from_module(module: ModuleType, parent_class: type | None = None) -> list[type]:
    """Return the classes that `module` itself defines, those below `parent_class` if it is given."""
    classes = [each for _, each in inspect.getmembers(module, inspect.isclass)]
    own = [each for each in classes if each.__module__ == module.__name__]
    return [each for each in own if parent_class is None or issubclass(each, parent_class)]


def load_label_mapping(mapping_file_path: str) -> dict[str, Any] | None:
    """Read `index_to_name.json`: class index, as text, to label. None if there is no such file.

    A mapping below `object_type_names` (older archives) is unwrapped; of a list, the last entry is the label.
    Raises `ValueError` if the file holds something else.
    """
    try:
        with open(mapping_file_path, encoding="utf-8") as file:
            mapping = json.load(file)
    except FileNotFoundError:
        return None
    if isinstance(mapping, dict) and "object_type_names" in mapping:
        mapping = mapping["object_type_names"]
    if isinstance(mapping, list):
        mapping = {str(index): label for index, label in enumerate(mapping)}
    if not isinstance(mapping, dict):
        raise ValueError("index_to_name mapping should be a JSON object of class index to label")
    return {key: label[-1] if isinstance(label, list) else label for key, label in mapping.items()}


def map_class_to_label(
    probs: Sequence[Sequence[float]],
    mapping: Mapping[str, str] | None = None,
    lbl_classes: Iterable[Iterable[Any]] | None = None,
) -> list[dict[str, float]]:
    """Return, for each row of `probs` [B][K], its probabilities by label.

    `lbl_classes` [B][K] names the class of each probability, else its position does; `mapping` turns
    classes, as text, into labels. Raises `TypeError` unless `probs` is a list of lists.
    """
    if not isinstance(probs, list) or not all(isinstance(row, list) for row in probs):
        raise TypeError("Convert probs to list of lists")
    classes = (range(len(row)) for row in probs) if lbl_classes is None else lbl_classes

    def label(index: Any) -> str:
        return str(index) if mapping is None else mapping[str(index)]

    return [
        {label(index): prob for index, prob in zip(indices, row, strict=False)}
        for indices, row in zip(classes, probs, strict=False)
    ]


def get_yaml_config(yaml_file_path: str) -> Any:
    """Read a YAML file; only plain values are made of it."""
    with open(yaml_file_path, encoding="utf-8") as file:
        return yaml.safe_load(file)


def captum_attr() -> Any:
    """Return the module `captum.attr`. Raises `PredictionException` (501) if captum is not installed."""
    try:
        return importlib.import_module("captum.attr")
    except ImportError:
        raise PredictionException("explanations need the package captum, which is missing", 501) from None


def deprecated(
    version: str, replacement: str = "", klass: type[Warning] = PendingDeprecationWarning
) -> Callable[[Function], Function]:
    """Make a function warn, when called, that it goes in `version` and what replaces it."""

    def decorate(func: Function) -> Function:
        @functools.wraps(func)
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            text = f"{func.__name__} is deprecated in {version}, use {replacement or 'something else'}"
            warnings.warn(text, klass, stacklevel=2)
            return func(*args, **kwargs)

        return cast("Function", wrapper)

    return decorate
