"""A server's side in the test's own thread: everything the child will receive is queued, then it runs."""

from __future__ import annotations

import sys
import textwrap
import uuid
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import orjson
import pytest

from wfserve.child.main import serve
from wfserve.child.spec import WorkerSpec
from wfserve.child.surroundings import COMPAT
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header, parse_header
from wfserve.transport.memory import MemoryTransport
from wfserve.transport.message import (
    Call,
    CallItem,
    LoadFailure,
    Ref,
    Reply,
    call_size,
    decode_load_failure,
    decode_reply,
    encode_call,
)
from wfserve.transport.progress import forget

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path


@dataclass
class Got:
    """One result as the server sees it: a fault, or a frame's kind and bytes."""

    kind: Kind
    data: bytes
    response: bytes
    place: Descriptor
    shape: tuple[int, ...] = ()
    dtype: str = ""

    def json(self) -> Any:
        return orjson.loads(self.data)


@dataclass
class Server:
    """Owns an arena, and speaks to one child after another."""

    transport: MemoryTransport = field(default_factory=lambda: MemoryTransport(1 << 26))
    held: list[Any] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    scratch: Descriptor = NOWHERE

    def lend(self, nbytes: int) -> Descriptor:
        loan = self.transport.arena.loan(nbytes)
        self.held.append(loan)
        return loan.descriptor._replace(length=nbytes)

    def lend_scratch(self) -> Descriptor:
        """Lend scratch memory that says nothing yet, as the server does."""
        loan = self.transport.arena.loan(8192)
        forget(loan.buffer)
        self.held.append(loan)
        return loan.descriptor

    def put(self, data: bytes, kind: Kind = Kind.BYTES, dtype: str = "", shape: tuple[int, ...] = ()) -> Ref:
        loan = self.transport.arena.loan(len(data))
        loan.buffer[: len(data)] = data
        self.held.append(loan)
        header = pack_header(kind, len(data), dtype, shape)
        return Ref(header, loan.descriptor._replace(length=len(data)))

    def item(
        self, *inputs: Ref, headers: dict[str, str] | None = None, parents: tuple[int, ...] = ()
    ) -> CallItem:
        encoded = self.put(orjson.dumps(list((headers or {}).items())), Kind.JSON)
        order = parents or tuple(range(len(inputs)))
        return CallItem(str(uuid.uuid4()), encoded, tuple(zip(order, inputs, strict=True)))

    def call(self, tag: int, *items: CallItem, extent: int = 1 << 16, **more: Any) -> Message:
        call = Call(items, self.lend(extent), **more)
        loan = self.transport.arena.loan(call_size(call))
        self.held.append(loan)
        length = encode_call(call, loan.buffer)
        return Message(MessageKind.CALL, tag, loan.descriptor._replace(length=length))

    def run(
        self, chain: WorkerSpec | Sequence[WorkerSpec], *messages: Message, homes: Any = ()
    ) -> list[Message]:
        """Run a child that receives `messages` and a STOP; return what it sent."""
        link, port = self.transport.connect()
        self.scratch = self.lend_scratch()
        for message in (
            Message(MessageKind.GRANT, 0, self.scratch),
            *messages,
            Message(MessageKind.STOP, 0, NOWHERE),
        ):
            link.send(message)
        serve([chain] if isinstance(chain, WorkerSpec) else chain, port.attach(), homes)
        self.messages = link.drain()
        return self.messages

    def batch(self, spec: WorkerSpec, *items: CallItem, extent: int = 1 << 16, **more: Any) -> list[Any]:
        """Run one batch in a fresh child; return its results: `Got` or `Fault`."""
        _, done = self.run(spec, self.call(1, *items, extent=extent, **more))
        return self.results(done)

    def reply(self, done: Message) -> Reply:
        assert done.kind == MessageKind.DONE
        return decode_reply(self.transport.arena.view(done.descriptor))

    def results(self, done: Message) -> list[Any]:
        return [self.got(result) for result in self.reply(done).results]

    def got(self, result: Any) -> Any:
        if not hasattr(result, "ref"):
            return result
        header = parse_header(result.ref.header)
        data = bytes(self.transport.arena.view(result.ref.descriptor))
        return Got(header.kind, data, result.response, result.ref.descriptor, header.shape, header.dtype)

    def failure(self, failed: Message) -> LoadFailure:
        assert failed.kind == MessageKind.FAILED
        return decode_load_failure(self.transport.arena.view(failed.descriptor))


@pytest.fixture
def server() -> Server:
    return Server()


@pytest.fixture(autouse=True)
def _worker_path(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """Import `ts` and archives as a worker does; forget the archive's modules afterwards."""
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.syspath_prepend(COMPAT)
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if str(tmp_path) in str(getattr(sys.modules[name], "__file__", "")):
            del sys.modules[name]


@pytest.fixture
def archive(tmp_path: Path) -> Callable[..., WorkerSpec]:
    """Write a handler file into an archive's directory; return a spec for it."""

    def make(code: str, handler: str = "", **fields: Any) -> WorkerSpec:
        name = f"handler_{uuid.uuid4().hex[:8]}"
        (tmp_path / f"{name}.py").write_text(textwrap.dedent(code), encoding="utf-8")
        fields.setdefault("name", "flow__node")
        fields.setdefault("manifest", {"model": {"modelName": "node"}})
        return WorkerSpec(handler=f"{name}.py{handler}", model_dir=str(tmp_path), **fields)

    return make
