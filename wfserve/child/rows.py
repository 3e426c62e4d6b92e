"""A row is what a handler sees of one item: a client's parameters at the start node, else parents' results.

A client that calls a node directly is read as at the start node; where it asks the node to describe itself,
the row is empty. One parent's result is `body`; several have their DAG names, in the order they arrived.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from wfserve.child import codec, form, media
from wfserve.child.context import Job, asks_to_describe
from wfserve.child.envelope import BODY, joins
from wfserve.child.fault import NodeError
from wfserve.child.headers import Headers
from wfserve.child.tensors import tensor_over
from wfserve.transport.base import new_tuple
from wfserve.transport.frame import Kind, parse_header

if TYPE_CHECKING:
    from collections.abc import Sequence

    import torch

    from wfserve.child.inputs import Inputs
    from wfserve.child.spec import WorkerSpec
    from wfserve.transport.base import Descriptor, Ref


def _as_it_is(view: memoryview) -> memoryview:
    return view


class Arrived(NamedTuple):
    """An item that has reached a step."""

    request_id: str
    headers: bytes  # the client's, a JSON list of [name, value]
    inputs: tuple[tuple[int, Ref], ...]  # (index of the parent node, what it returned)


class Layout:
    """What the rows of a node look like, the same for all of its calls."""

    def __init__(self, spec: WorkerSpec) -> None:
        self.spec = spec
        self.is_native = spec.data_format == "native"
        self.as_returned = self.is_native or joins(spec)
        self.begins = not spec.parents  # with what clients sent
        # By its name the content type of what a parent returned: none is said of it.
        self.single: dict[str, str] | None = {BODY: ""} if len(spec.parents) == 1 else None


class Rows:
    """Builds the jobs of one step of a batch; `direct` says that clients called this node alone."""

    def __init__(self, layout: Layout, inputs: Inputs, *, direct: bool) -> None:
        self._layout = layout
        self._spec = layout.spec
        self._inputs = inputs
        self._direct = direct
        self._native = layout.is_native
        self._together: dict[Descriptor, torch.Tensor] = {}

    def look_together(self, items: Sequence[Arrived]) -> None:
        """Look at the inputs of `items` as one, if they are of one kind and lie one behind the other."""
        if len(items) < 2 or not self._native:
            return
        refs, spec = [item.inputs[0][1] for item in items if len(item.inputs) == 1], self._spec
        if len(refs) < len(items):
            return
        rows = codec.decode_run(refs, self._inputs, spec.input_dtype, spec.input_shape)
        if rows is not None:
            self._together = {ref.descriptor: row for ref, row in zip(refs, rows, strict=True)}

    def parts(self, item: Arrived) -> tuple[Job, list[tuple[Any, bytes]]]:
        """Return the job that an item was before it was divided, without a row, and what its parts became."""
        headers = Headers(item.headers)
        results = [codec.decode_native(ref, self._inputs) for _, ref in item.inputs]
        return Job(item.request_id, headers, {}, self._direct), results

    def job(self, item: Arrived) -> Job:
        """Return the job of an item. Raises `NodeError` if its input cannot be read."""
        headers = Headers(item.headers)
        if self._direct or self._layout.begins:
            row = self._client_row(item, headers)
            return new_tuple(Job, (item.request_id, headers, row, self._direct))
        if self._layout.single is not None:
            headers.add_parameters(self._layout.single)
            ((_, ref),) = item.inputs
            return new_tuple(Job, (item.request_id, headers, {BODY: self._value(ref)}, False))
        row = {self._spec.parents[parent]: self._value(ref) for parent, ref in item.inputs}
        headers.add_parameters(dict.fromkeys(row, ""))
        return Job(item.request_id, headers, row)

    def _client_row(self, item: Arrived, headers: Headers) -> dict[str, Any]:
        ref = item.inputs[0][1] if item.inputs else None
        if ref is not None and parse_header(ref.header).kind == Kind.TENSOR:  # rows of what a client sent
            headers.add_parameters({BODY: headers.content_type()})
            return {BODY: self._value(ref)}
        body = memoryview(bytearray()) if ref is None else self._body(ref)
        if self._direct and not body and asks_to_describe(headers):
            return {}
        raw = _as_it_is if self._native else bytearray
        decode = self._spec.decode_input_request
        found = form.parameters(headers.content_type(), body, raw, decode=decode, tensors=self._native)
        if self._native and decode:
            found = [self._described(parameter, headers, ref) for parameter in found]
        headers.add_parameters({parameter.name: parameter.content_type for parameter in found})
        return {parameter.name: parameter.value for parameter in found}

    def _described(self, parameter: form.Parameter, headers: Headers, ref: Ref | None) -> form.Parameter:
        """Return a body as the tensor that the request's headers say it is, if they do."""
        dtype = headers.find(media.DTYPE_HEADER) if parameter.name == BODY else None
        mime = form.mime_of(parameter.content_type)
        if dtype is None:
            return self._declared(parameter, ref) if mime in ("", media.BINARY) else parameter
        if not media.may_be_described(mime):
            return parameter
        value = media.described(dtype, headers.find(media.SHAPE_HEADER), parameter.value)
        return parameter._replace(value=value)

    def _declared(self, parameter: form.Parameter, ref: Ref | None) -> form.Parameter:
        """Return a raw body as the tensor that the specification says it is, or rows of such, if it does."""
        dtype, shape = self._spec.input_dtype, self._spec.input_shape
        if shape is None or parameter.name != BODY or not isinstance(parameter.value, memoryview):
            return parameter
        if ref is not None and ref.descriptor in self._together:
            return parameter._replace(value=self._together[ref.descriptor])
        rows, rest = divmod(parameter.value.nbytes, self._spec.row_bytes or 1)
        several = (rows,) if rows > 1 and not rest else ()
        try:
            return parameter._replace(value=tensor_over(parameter.value, dtype, several + shape))
        except ValueError as problem:
            text = f"The body is not {dtype} {list(shape)}, as the specification has it: {problem}."
            raise NodeError(text, 400, "BadRequestException") from None

    def _body(self, ref: Ref) -> memoryview:
        return self._inputs.borrow(ref) if self._native else self._inputs.read(ref)

    def _value(self, ref: Ref) -> Any:
        if self._together and ref.descriptor in self._together:
            return self._together[ref.descriptor]
        if self._layout.as_returned:
            return codec.decode_native(ref, self._inputs)
        return codec.decode_bytes(ref, self._inputs)
