"""A handler is found once, as the manifest names it; whatever its calls do becomes values or faults.

A model gets a batch in one call and fails as one. A function gets one item a call, and each fails alone.
"""

from __future__ import annotations

import importlib
import logging
import os
import traceback
from typing import TYPE_CHECKING, Any, NamedTuple

from wfserve.child.context import NodeContext
from wfserve.child.envelope import enveloped
from wfserve.child.fault import (
    NOT_A_LIST,
    RESPONSE_UNSOUND,
    WRONG_LENGTH,
    alone,
    fault_of,
    for_batch,
)
from wfserve.transport.base import new_tuple

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import ModuleType

    from wfserve.child.context import Job
    from wfserve.child.envelope import Together
    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.message import Fault

    Entry = Callable[[Any, Any], Any]

log = logging.getLogger(__name__)


class Answer(NamedTuple):
    """What a handler returned for one item, and what it set on the response."""

    value: Any
    response: bytes


class Handler:
    """One node's code, loaded."""

    def __init__(self, spec: WorkerSpec, loaded: Handler | None = None) -> None:
        """Find and initialise the handler, or have the code and the context of one that is `loaded`.

        Raises whatever its code does, `ImportError` if there is none.
        """
        self._spec = spec
        self._node: NodeContext = loaded._node if loaded else NodeContext(spec)
        self._prediction_exception = importlib.import_module("ts.utils.util").PredictionException
        self._entry: Entry = loaded._entry if loaded else load_entry(spec.handler, self._node.context)
        self._enter = enveloped(spec, self._entry, self._node.context)

    def at(self, spec: WorkerSpec) -> Handler:
        """Return the same handler, context included, for calls of the node that `spec` is of."""
        return Handler(spec, self)

    def call(self, jobs: Sequence[Job], together: Together = list) -> list[Answer | Fault]:
        """Return an answer or a fault for each job, in order. The jobs' rows are the handler's to change.

        It gets them as `together` puts them together. A function is called with one job at a time.
        """
        if not jobs:
            return []
        self._node.begin(jobs, self._spec.name)
        try:
            values = self._enter(jobs, together)
        except Exception as error:
            ids = ", ".join(job.request_id for job in jobs)
            if isinstance(error, self._prediction_exception):  # meant for the client, no defect
                log.warning("%s refused %s: %s", self._spec.name, ids, error)
            else:  # as text: a record that holds the traceback holds the rows, and with them shared memory
                log.error("%s failed for %s\n%s", self._spec.name, ids, traceback.format_exc())
            return self._faults(fault_of(error, self._prediction_exception), jobs)
        if not isinstance(values, list):
            log.error("%s returned %s instead of a list", self._spec.name, type(values).__name__)
            return self._faults(NOT_A_LIST, jobs)
        if len(values) != len(jobs):
            log.error("%s returned %d results for %d requests", self._spec.name, len(values), len(jobs))
            return self._faults(WRONG_LENGTH, jobs)
        return self._answers(values)

    def take_metrics(self) -> bytes:
        """Return what the handler recorded since the last time, as JSON; empty if nothing."""
        return self._node.take_metrics()

    def _answers(self, values: Sequence[Any]) -> list[Answer | Fault]:
        if self._node.is_silent():
            return [new_tuple(Answer, (value, b"")) for value in values]
        return [self._answer(index, value) for index, value in enumerate(values)]

    def _answer(self, index: int, value: Any) -> Answer | Fault:
        try:
            return Answer(value, self._node.response(index))
        except Exception as error:  # a header's own methods may raise anything
            log.error("%s set a status or headers that cannot be sent: %s", self._spec.name, error)
            return alone(RESPONSE_UNSOUND)

    def _faults(self, fault: Fault, jobs: Sequence[Job]) -> list[Answer | Fault]:
        return [alone(fault)] if self._spec.is_function else [*for_batch(fault, jobs)]


def load_entry(handler: str, context: Any) -> Entry:
    """Return what answers a batch: the function a handler names, or the `handle` of its only class.

    Follows TorchServe: `file.py[:function]`, function `handle` if none is named; without that function, a
    class; without such a module, the default handler of that name. It has been initialised when it returns.
    """
    if not handler:
        raise ImportError("the manifest names no handler, and default_service_handler is not set")
    path, _, function = handler.partition(":")
    module = _import(os.path.basename(path).removesuffix(".py"))
    entry: Entry | None = getattr(module, function or "handle", None)
    if entry is not None:
        entry(None, context)
        return entry
    return _class_entry(module, function or "handle", context)


def _import(name: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except ImportError as own:
        try:
            return importlib.import_module(f"ts.torch_handler.{name}")
        except ModuleNotFoundError as default:
            if default.name == f"ts.torch_handler.{name}":
                raise own from None  # a handler of the archive that misses a package of its own
            raise


def _class_entry(module: ModuleType, function: str, context: Any) -> Entry:
    list_classes = importlib.import_module("ts.utils.util").list_classes_from_module
    classes = [each for each in list_classes(module) if hasattr(each, "handle")]
    if len(classes) != 1:
        found = ", ".join(each.__name__ for each in classes) or "none"
        raise ImportError(
            f"{module.__name__} has no function {function}, and of classes with a handle method it should"
            f" have one: {found}"
        )
    instance = classes[0]()
    entry: Entry = instance.handle
    if hasattr(instance, "initialize"):
        instance.initialize(context)
    else:
        entry(None, context)
    return entry
