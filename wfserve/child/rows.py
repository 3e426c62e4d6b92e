"""A row is what a handler sees of one item: a client's parameters at the start node, else parents' results.

A client that calls a node directly is read as at the start node; where it asks the node to describe itself,
the row is empty. One parent's result is `body`; several have their DAG names, in the order they arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from wfserve.child import codec, form, media
from wfserve.child.context import Headers, Job, asks_to_describe
from wfserve.child.envelope import joins

if TYPE_CHECKING:
    from wfserve.child.inputs import Inputs
    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.message import CallItem, Ref


def _as_it_is(view: memoryview) -> memoryview:
    return view


class Rows:
    """Builds the jobs of one step of a batch; `direct` says that clients called this node alone."""

    def __init__(self, spec: WorkerSpec, inputs: Inputs, *, direct: bool) -> None:
        self._spec = spec
        self._inputs = inputs
        self._direct = direct
        self._native = spec.data_format == "native"
        self._as_returned = self._native or joins(spec)

    def job(self, item: CallItem) -> Job:
        """Return the job of an item. Raises `NodeError` if its input cannot be read."""
        headers = Headers(bytes(self._inputs.read(item.headers)))
        if self._direct or not self._spec.parents:
            return Job(item.request_id, headers, self._client_row(item, headers), self._direct)
        names = [self._spec.parents[parent] for parent, _ in item.inputs]
        if len(self._spec.parents) == 1:
            names = ["body"]
        values = [self._value(ref) for _, ref in item.inputs]
        headers.add_parameters([form.Parameter(name, None, "") for name in names])
        return Job(item.request_id, headers, dict(zip(names, values, strict=True)))

    def _client_row(self, item: CallItem, headers: Headers) -> dict[str, Any]:
        body = self._body(item.inputs[0][1]) if item.inputs else memoryview(bytearray())
        if self._direct and not body and asks_to_describe(headers):
            return {}
        raw = _as_it_is if self._native else bytearray
        decode = self._spec.decode_input_request
        found = form.parameters(headers.content_type(), body, raw, decode=decode, tensors=self._native)
        if self._native and decode:
            found = [self._described(parameter, headers) for parameter in found]
        headers.add_parameters([parameter._replace(value=None) for parameter in found])
        return {parameter.name: parameter.value for parameter in found}

    def _described(self, parameter: form.Parameter, headers: Headers) -> form.Parameter:
        """Return a body as the tensor that the request's headers say it is, if they do."""
        dtype = headers.find(media.DTYPE_HEADER) if parameter.name == "body" else None
        if dtype is None or not media.may_be_described(form.mime_of(parameter.content_type)):
            return parameter
        value = media.described(dtype, headers.find(media.SHAPE_HEADER), parameter.value)
        return parameter._replace(value=value)

    def _body(self, ref: Ref) -> memoryview:
        return self._inputs.borrow(ref) if self._native else self._inputs.read(ref)

    def _value(self, ref: Ref) -> Any:
        if self._as_returned:
            return codec.decode_native(ref, self._inputs)
        return codec.decode_bytes(ref, self._inputs)
