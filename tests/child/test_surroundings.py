"""A worker process as it really starts, and the import path it has."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from multiprocessing import forkserver
from multiprocessing.reduction import DupFd
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import torch.multiprocessing

from wfserve.child import main
from wfserve.child.spec import WorkerSpec
from wfserve.child.surroundings import COMPAT, hide_variables, import_path
from wfserve.transport.base import NOWHERE, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.message import Call, CallItem, Ref, call_size, decode_reply, encode_call
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


def test_the_import_path(tmp_path: Path) -> None:
    real = tmp_path / "real"
    link = tmp_path / "links" / "archive"
    real.mkdir()
    link.parent.mkdir()
    link.symlink_to(real)
    assert import_path(str(real), ["/inherited"]) == [COMPAT, "/inherited", str(real)]
    assert import_path(str(link), []) == [COMPAT, str(link), str(link.parent)]


def test_a_models_own_packages_come_after_nothing_but_ts(tmp_path: Path) -> None:
    path = import_path(str(tmp_path), ["/inherited"], "packages")
    assert path == [COMPAT, os.path.abspath("packages"), "/inherited", str(tmp_path)]


def test_variables_are_hidden_by_their_whole_name(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_SECRET", "AWS_KEY", "MY_AWS_KEY", "PLAIN"):
        monkeypatch.setenv(name, "x")
    hide_variables("")
    assert "AWS_KEY" in os.environ
    hide_variables("AWS_.*|.*SECRET")
    assert {"AWS_SECRET", "AWS_KEY"}.isdisjoint(os.environ)
    assert {"MY_AWS_KEY", "PLAIN"} <= os.environ.keys()


def test_importing_the_child_starts_no_thread_of_ours_and_no_cuda() -> None:
    code = (
        "import threading, torch, wfserve.child.main;"
        "assert threading.active_count() == 1; assert not torch.cuda.is_initialized();"
        "import sys; assert 'ts' not in sys.modules; assert 'trio' not in sys.modules"
    )
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=60)


SELF = """
import os, signal, sys, torch
import ts
def fn(data, context):
    if data is None:
        return None
    return [{
        "cwd": os.getcwd(),
        "group": os.getpgid(0) == os.getpid(),
        "threads": torch.get_num_threads(),
        "name": open("/proc/self/comm").read().strip(),
        "ts": os.path.dirname(ts.__file__),
        "path": sys.path,
        "PYTHONPATH": os.environ["PYTHONPATH"].split(":"),
        "sigint": signal.getsignal(signal.SIGINT) == signal.SIG_IGN,
        "sigterm": signal.getsignal(signal.SIGTERM) == signal.SIG_DFL,
        "body": row["body"].decode(),
    } for row in data]
"""


class Carried:
    """A descriptor on its way to a child that is being started."""

    def __init__(self, fd: int) -> None:
        self._fd = fd

    def __reduce__(self) -> Any:
        return _arrived, (DupFd(self._fd),)


def _arrived(carried: Any) -> Any:
    return carried


@pytest.fixture
def context() -> Iterator[Any]:
    """A fork server of our own to start workers from, stopped afterwards."""
    context = torch.multiprocessing.get_context("forkserver")
    yield context
    forkserver._forkserver._stop()  # type: ignore[attr-defined]


async def test_a_real_worker_process(tmp_path: Path, context: Any) -> None:
    (tmp_path / "selfish.py").write_text(SELF)
    spec = WorkerSpec("flow__fn", "selfish.py:fn", str(tmp_path), is_function=True, threads=1)
    pidfd = os.pidfd_open(os.getpid())
    with ShmTransport(1 << 26) as transport:
        link, port = transport.connect()
        process = context.Process(target=main.run, args=([spec], port, Carried(pidfd)))
        process.start()
        try:
            await _converse(transport, link, process, tmp_path)
        finally:
            process.kill()
            process.join()
            os.close(pidfd)
            link.close()


async def _converse(transport: ShmTransport, link: Any, process: Any, tmp_path: Path) -> None:
    scratch, extent, slot = (transport.arena.loan(8192) for _ in range(3))
    link.send(Message(MessageKind.GRANT, 0, scratch.descriptor))
    (ready,) = await link.receive()
    assert ready.kind == MessageKind.READY
    body, headers = (_put(transport, data) for data in (b"hello", b"[]"))
    item = CallItem("0" * 8 + "-0000-0000-0000-" + "0" * 12, headers[1], ((0, body[1]),))
    call = Call((item,), extent.descriptor)
    length = encode_call(call, slot.buffer)
    assert length == call_size(call)
    link.send(Message(MessageKind.CALL, 1, slot.descriptor._replace(length=length)))
    (done,) = await link.receive()
    start = done.descriptor.offset - extent.descriptor.offset
    (result,) = decode_reply(extent.buffer[start : start + done.descriptor.length]).results
    assert not hasattr(result, "code")
    place = result.ref.descriptor
    start = place.offset - extent.descriptor.offset
    said = orjson.loads(bytes(extent.buffer[start : start + place.length]))
    path = said.pop("path")
    assert path[: path.index(str(tmp_path)) + 1] == said.pop("PYTHONPATH")
    assert path[0] == COMPAT
    assert said == {
        "cwd": str(tmp_path),
        "group": True,
        "threads": 1,
        "name": "wf:flow__fn",
        "ts": os.path.join(COMPAT, "ts"),
        "sigint": True,
        "sigterm": True,
        "body": "hello",
    }
    os.kill(process.pid, signal.SIGINT)  # ignored: it still hears the STOP
    link.send(Message(MessageKind.STOP, 0, NOWHERE))
    process.join(30)
    assert process.exitcode == 0


def _put(transport: ShmTransport, data: bytes) -> tuple[Any, Ref]:
    loan = transport.arena.loan(len(data))
    loan.buffer[: len(data)] = data
    place = loan.descriptor._replace(length=len(data))
    return loan, Ref(pack_header(Kind.BYTES, len(data)), place)
