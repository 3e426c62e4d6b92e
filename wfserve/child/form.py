"""A client's body becomes the start node's parameters by its content type alone, as TorchServe decodes it.

multipart/form-data                  each part by its name; file parts decoded by their own content type
application/x-www-form-urlencoded    each field by its name
anything else                        `body`: JSON parsed, text* as str, the rest raw

For a native node, a body or a file part that carries tensors (`child.media`) is decoded as well.
"""

from __future__ import annotations

import json
import logging
import re
from email.message import Message
from email.parser import HeaderParser
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any, Final, NamedTuple
from urllib.parse import unquote_to_bytes

from wfserve.child import media
from wfserve.child.fault import NodeError
from wfserve.transport.base import new_tuple

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    Raw = Callable[[memoryview], Any]
    Read = Callable[[str, memoryview], Any]

log = logging.getLogger(__name__)
REMEMBERED: Final = 64  # content types: clients send few


class Parameter(NamedTuple):
    """A named value of a request, and the content type it came with."""

    name: str
    value: Any
    content_type: str


def parameters(
    content_type: str, body: memoryview, raw: Raw, *, decode: bool = True, tensors: bool = False
) -> list[Parameter]:
    """Return what a body holds, in order; of parameters with the same name the last counts.

    `raw` makes what a handler sees of undecoded bytes. With `decode` off nothing is parsed; with `tensors`
    what carries them is. Raises `NodeError` (400) if a multipart body or what should be tensors is malformed.
    """
    mime = mime_of(content_type)
    if mime == "multipart/form-data":
        read = partial(_decoded, raw=raw, tensors=tensors) if decode else _ignoring_type(raw)
        return list(_multipart(content_type, body, raw, read))
    if mime == "application/x-www-form-urlencoded":
        return list(_fields(body))
    value = _decoded(content_type, body, raw, tensors) if decode else raw(body)
    return [new_tuple(Parameter, ("body", value, content_type))]


def _ignoring_type(raw: Raw) -> Read:
    return lambda content_type, body: raw(body)


@lru_cache(REMEMBERED)
def mime_of(content_type: str) -> str:
    """Return the media type of a content type, in lower case and without parameters."""
    return content_type.partition(";")[0].strip().lower()


def _decoded(content_type: str, body: memoryview, raw: Raw, tensors: bool) -> Any:
    mime = mime_of(content_type)
    if tensors and media.carries_tensors(mime):
        return media.read(mime, body)
    if not (mime == "application/json" or mime.startswith("text")):
        return raw(body)
    try:
        text = str(body, "utf-8")
        return json.loads(text) if mime == "application/json" else text
    except (ValueError, RecursionError) as problem:
        log.warning("a body of type %s is handed on as it is: %s", mime, str(problem))
        return raw(body)


def _fields(body: memoryview) -> Iterator[Parameter]:
    for field in bytes(body).split(b"&"):
        name, _, value = field.replace(b"+", b" ").partition(b"=")
        if name or value:
            yield Parameter(
                unquote_to_bytes(name).decode(errors="replace"), bytearray(unquote_to_bytes(value)), ""
            )


def _multipart(content_type: str, body: memoryview, raw: Raw, read: Read) -> Iterator[Parameter]:
    """Yield the parts (RFC 7578) of a body, which is searched where it lies and never copied as a whole."""
    boundary = _parameter_of("Content-Type", content_type, "boundary")
    if not boundary:
        raise NodeError("The multipart body has no boundary.", 400, "BadRequestException")
    for part in _parts(body, boundary.encode()):
        head, content = _split_part(part)
        headers = HeaderParser().parsestr(head)
        name = _text(headers.get_param("name", header="content-disposition"))
        if name is None:
            raise NodeError("A part of the multipart body has no name.", 400, "BadRequestException")
        if headers.get_filename() is None:
            yield Parameter(name, raw(content), "")
        else:
            own_type = str(headers.get("content-type", ""))
            yield Parameter(name, read(own_type, content), own_type)


def _parts(body: memoryview, boundary: bytes) -> Iterator[memoryview]:
    """Yield what lies between the delimiter lines of a body. Raises `NodeError` if the last is missing."""
    begin: int | None = None
    for line in re.finditer(rb"--" + re.escape(boundary) + rb"(--)?[ \t]*(?=\r\n|\Z)", body):
        start = line.start()
        if start and bytes(body[max(start - 2, 0) : start]) != b"\r\n":
            continue  # not at the start of a line: a part's own content
        if begin is not None:
            yield body[begin : max(start - 2, begin)]
        if line[1]:
            return
        begin = line.end() + 2
    raise NodeError("The multipart body has no end.", 400, "BadRequestException")


def _split_part(part: memoryview) -> tuple[str, memoryview]:
    end = re.search(rb"(?:\A|\r\n)\r\n", part)
    if end is None:
        raise NodeError("A part of the multipart body has no headers.", 400, "BadRequestException")
    return str(part[: end.start()], "utf-8", "replace"), part[end.end() :]


def _parameter_of(header: str, value: str, name: str) -> str | None:
    message = Message()
    message[header] = value
    return _text(message.get_param(name, header=header))


def _text(parameter: object) -> str | None:
    """Return an email parameter as text; an RFC 2231 one is a triple of charset, language and value."""
    if isinstance(parameter, tuple):
        return str(parameter[2])
    return None if parameter is None else str(parameter)
