"""The segment gives memory back, reuses what is warm, and survives what a child may do to it."""

from __future__ import annotations

import importlib.util
import mmap
import os
import signal
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, rule

from wfserve import _native
from wfserve.errors import FrameError, ServiceUnavailableError
from wfserve.transport.base import NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.shm import ShmTransport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from wfserve.transport.base import Payload
    from wfserve.transport.shm import ShmLink

MIB = 1 << 20
PAGE = mmap.PAGESIZE
RING_BYTES = 192 + 32 * _native.RING_CAPACITY  # tail at 0, head at 64, asleep at 128, entries at 192


@pytest.fixture
def transport() -> Iterator[ShmTransport]:
    with ShmTransport(64 * MIB) as made:
        yield made


@pytest.fixture
def link(transport: ShmTransport) -> Iterator[ShmLink]:
    made, _ = transport.connect()
    yield made
    made.close()


def fill(transport: ShmTransport, nbytes: int) -> _native.Loan:
    loan = transport.arena.loan(nbytes)
    loan.buffer[:] = b"\xa5" * loan.buffer.nbytes
    return loan


def trim(transport: ShmTransport, rounds: int = 2) -> None:
    """Give back what has been free for a whole round; in two rounds that is all that is free."""
    for _ in range(rounds):
        while transport.arena.trim(MIB):
            pass


class TestMemory:
    def test_reserving_takes_no_memory(self, transport: ShmTransport) -> None:
        assert os.fstat(transport.arena.fd).st_size >= 2**28
        assert transport.arena.statistics().resident_bytes == 0

    def test_the_slot_freed_last_is_lent_first(self, transport: ShmTransport) -> None:
        loans = [fill(transport, 5000) for _ in range(3)]
        places = [loan.descriptor for loan in loans]
        for loan in loans:
            loan.release()
        again = [transport.arena.loan(5000) for _ in range(3)]
        assert [loan.descriptor for loan in again] == places[::-1]

    def test_only_the_pages_asked_for_count(self, transport: ShmTransport) -> None:
        assert transport.arena.loan(9 * PAGE - 1).descriptor.length == 9 * PAGE
        assert transport.arena.loan(3 * PAGE + 1).descriptor.length == 4 * PAGE

    @pytest.mark.parametrize("nbytes", [64, 1000, 2 * PAGE, 3 * MIB])
    def test_trim_gives_free_slots_back(self, transport: ShmTransport, nbytes: int) -> None:
        loans = [fill(transport, nbytes) for _ in range(12 * MIB // max(nbytes, 4000))]
        resident = transport.arena.statistics().resident_bytes
        for loan in loans[1:]:
            loan.release()
        trim(transport)
        after = transport.arena.statistics()
        assert after.resident_bytes <= max(PAGE, after.loaned_bytes) < resident
        assert set(loans[0].buffer) == {0xA5}

    @pytest.mark.parametrize("nbytes", [64, 2 * PAGE, 3 * MIB])
    def test_trim_leaves_what_is_used_again(self, transport: ShmTransport, nbytes: int) -> None:
        rarely, often = [[fill(transport, nbytes) for _ in range(4 * PAGE // nbytes or 1)] for _ in range(2)]
        for loan in [*rarely, *often]:
            loan.release()
        for _ in range(3):
            again = [fill(transport, nbytes) for _ in often]  # those freed last
            for loan in again:
                loan.release()
            trim(transport, rounds=1)
            assert transport.arena.statistics().resident_bytes >= nbytes * len(often)
        assert transport.arena.statistics().resident_bytes < nbytes * (len(rarely) + len(often))

    def test_trim_does_not_take_long(self, transport: ShmTransport) -> None:
        for loan in [fill(transport, MIB) for _ in range(8)]:
            loan.release()
        assert transport.arena.trim(2 * MIB) == 0
        for left in (6, 4, 2, 0):
            assert transport.arena.trim(2 * MIB) == 2 * MIB
            assert transport.arena.statistics().resident_bytes == left * MIB
        assert transport.arena.trim(2 * MIB) == 0

    def test_trim_takes_a_large_slot_in_pieces(self, transport: ShmTransport) -> None:
        fill(transport, 8 * MIB).release()
        assert transport.arena.trim(3 * MIB) == 0
        assert [transport.arena.trim(3 * MIB - 1) for _ in range(4)] == [3 * MIB, 3 * MIB, 2 * MIB, 0]
        assert transport.arena.statistics().resident_bytes == 0
        whole = fill(transport, 8 * MIB)
        assert transport.arena.statistics().resident_bytes == 8 * MIB
        whole.release()

    def test_what_was_shortened_is_whole_again(self, transport: ShmTransport) -> None:
        fill(transport, 8 * MIB).release()
        assert transport.arena.trim(MIB) == 0
        assert transport.arena.trim(MIB) == MIB
        part, whole = fill(transport, 8 * MIB - PAGE), fill(transport, 8 * MIB)
        assert transport.arena.statistics().loaned_bytes == 16 * MIB - PAGE
        for loan in (part, whole):
            assert set(loan.buffer) == {0xA5}
            loan.release()
        trim(transport)
        assert transport.arena.statistics().resident_bytes == 0

    def test_beyond_a_watermark_slots_are_given_back_at_once(self, transport: ShmTransport) -> None:
        for loan in [fill(transport, 4 * MIB) for _ in range(12)]:
            loan.release()
        assert transport.arena.statistics().resident_bytes == 16 * MIB  # a quarter of the limit

    def test_what_free_slots_keep_is_not_missing_elsewhere(self, transport: ShmTransport) -> None:
        for loan in [fill(transport, MIB) for _ in range(16)]:
            loan.release()
        everything = fill(transport, 64 * MIB)
        assert transport.arena.statistics().resident_bytes == 64 * MIB
        everything.release()
        assert transport.arena.statistics().resident_bytes == 0

    def test_memory_goes_with_the_last_view(self) -> None:
        with ShmTransport(MIB) as transport:
            view = fill(transport, PAGE).buffer
        assert transport.arena.fd >= 0
        assert set(view) == {0xA5}
        del view
        assert transport.arena.fd == -1

    def test_a_small_address_space_is_made_do_with(self) -> None:
        program = f"""
import resource
from wfserve.transport.shm import ShmTransport
resource.setrlimit(resource.RLIMIT_AS, ({8 << 30}, {8 << 30}))
with ShmTransport({64 * MIB}) as transport:
    loan = transport.arena.loan({32 * MIB})
    loan.buffer[-1] = 1
"""
        subprocess.run([sys.executable, "-c", program], check=True, timeout=60)

    def test_descriptors_are_closed(self) -> None:
        before = os.listdir("/proc/self/fd")
        for _ in range(3):
            with ShmTransport(MIB) as transport:
                link, port = transport.connect()
                port.attach()
                link.close()
        assert os.listdir("/proc/self/fd") == before


def test_an_entry_lies_in_the_ring_as_its_layout_says(link: ShmLink) -> None:
    link.send(Message(MessageKind.CALL, 2, Descriptor(3, 4, 5)))
    with mmap.mmap(link.fds[0], 2 * RING_BYTES) as memory:
        assert struct.unpack_from("<Q", memory, 0) == (1,)
        assert struct.unpack_from("<IIQQQ", memory, 192) == (MessageKind.CALL, 3, 2, 4, 5)
    assert os.fstat(link.fds[0]).st_size == 2 * RING_BYTES


def test_there_is_nothing_to_watch_behind_a_closed_descriptor() -> None:
    with pytest.raises(OSError, match="Bad file descriptor"):
        _native.watch_parent(-1)


class TestHostileChildren:
    @pytest.mark.parametrize("tail", [_native.RING_CAPACITY + 1, 2**63, 2**64 - 1])
    async def test_indices_that_cannot_be(self, link: ShmLink, tail: int) -> None:
        with mmap.mmap(link.fds[0], 2 * RING_BYTES) as memory:
            struct.pack_into("<Q", memory, RING_BYTES, tail)
        with pytest.raises(FrameError):
            link.drain()
        with pytest.raises(FrameError):
            await link.receive()

    def test_a_head_beyond_the_tail(self, link: ShmLink) -> None:
        with mmap.mmap(link.fds[0], 2 * RING_BYTES) as memory:
            struct.pack_into("<Q", memory, 64, 1)
        with pytest.raises(FrameError):
            link.send(Message(MessageKind.STOP, 0, NOWHERE))

    def test_a_mapping_cannot_be_pulled_away(self, transport: ShmTransport, link: ShmLink) -> None:
        for fd in (transport.arena.fd, link.fds[0]):
            with pytest.raises(PermissionError):
                os.ftruncate(fd, 0)

    def test_garbage_in_the_whole_segment_does_not_confuse_its_owner(self, transport: ShmTransport) -> None:
        loans = [transport.arena.loan(100) for _ in range(3)]
        _, port = transport.connect()
        start = loans[0].descriptor._replace(length=64 * PAGE)
        port.attach().map(start)[:] = b"\xff" * 64 * PAGE
        for loan in loans:
            loan.release()
        trim(transport)
        assert transport.arena.statistics().slots == 0
        assert transport.arena.loan(100).descriptor.length == 128

    @pytest.mark.parametrize(
        "fields", [(-1, 0, NOWHERE), (2**32, 0, NOWHERE), (1, 2**64, NOWHERE), (1, 0, (0, 0, -1))]
    )
    def test_what_does_not_fit_an_entry_is_not_sent(
        self, link: ShmLink, fields: tuple[int, int, object]
    ) -> None:
        with pytest.raises(OverflowError):
            link.send(Message(*fields))  # type: ignore[arg-type]


def test_a_child_may_wait_awake() -> None:
    end = _native.ServerEnd()
    child = _native.ChildEnd(end.memory_fd, end.doorbell_fd)
    waiting = threading.Thread(target=child.receive, args=(1_000_000,))
    waiting.start()
    assert waiting.ident is not None
    clock = time.pthread_getcpuclockid(waiting.ident)
    while time.clock_gettime(clock) < 0.1:
        assert not end.child_sleeps
    end.send(Message(MessageKind.STOP, 0, NOWHERE))
    waiting.join(20)
    assert not waiting.is_alive()


def test_a_child_that_waits_runs_its_signal_handlers(transport: ShmTransport) -> None:
    link, port = transport.connect()
    child = port.attach()

    def interrupt(number: int, frame: object) -> None:
        raise InterruptedError

    before = signal.signal(signal.SIGUSR1, interrupt)
    sender = threading.Thread(target=signal.pthread_kill, args=(threading.get_ident(), signal.SIGUSR1))

    def interrupted_receive() -> None:
        sender.start()
        child.receive()

    try:
        with pytest.raises(InterruptedError):
            interrupted_receive()
    finally:
        sender.join()
        signal.signal(signal.SIGUSR1, before)
    link.close()


@pytest.mark.skipif(importlib.util.find_spec("ruff") is None, reason="the stub is formatted by ruff")
def test_the_stub_is_up_to_date() -> None:
    root = Path(__file__).parents[2]
    subprocess.run([sys.executable, str(root / "native" / "stub.py"), "--check"], check=True, timeout=60)


class ArenaMachine(RuleBasedStateMachine):
    """Whatever is lent, published, shared, released, trimmed: bytes stay, slots count, the limit holds."""

    limit = MIB
    loans = Bundle("loans")
    payloads = Bundle("payloads")

    @initialize()
    def open(self) -> None:
        self.transport = ShmTransport(self.limit)
        self.held: dict[int, int] = {}  # slot's offset → handles
        self.fillings = 0

    @rule(target=loans, nbytes=st.integers(0, 200) | st.integers(0, 3 * PAGE) | st.integers(0, MIB))
    def lend(self, nbytes: int) -> tuple[_native.Loan, int] | None:
        try:
            loan = self.transport.arena.loan(nbytes)
        except ServiceUnavailableError:
            assert (
                nbytes + self.transport.arena.statistics().loaned_bytes + PAGE > self.limit or nbytes < PAGE
            )
            return None
        assert loan.descriptor.length >= nbytes
        assert loan.descriptor.offset not in self.held
        self.held[loan.descriptor.offset] = 1
        self.fillings = self.fillings % 255 + 1
        loan.buffer[:] = bytes([self.fillings]) * loan.buffer.nbytes
        return loan, self.fillings

    @rule(target=payloads, lent=loans)
    def publish(self, lent: tuple[_native.Loan, int] | None) -> tuple[Payload, int, int] | None:
        if lent is None:
            return None
        loan, filling = lent
        _, offset, length = loan.descriptor
        self.held[offset] += 1
        return loan.publish(pack_header(Kind.BYTES, length // 2), length // 4, length // 2), filling, offset

    @rule(target=payloads, sent=payloads)
    def share(self, sent: tuple[Payload, int, int] | None) -> tuple[Payload, int, int] | None:
        if sent is None:
            return None
        payload, filling, offset = sent
        self.held[offset] += 1
        return payload.share(), filling, offset

    @rule(lent=consumes(loans))
    def release_loan(self, lent: tuple[_native.Loan, int] | None) -> None:
        if lent is not None:
            loan, filling = lent
            assert set(loan.buffer) == {filling}
            loan.release()
            self._forget(loan.descriptor.offset)

    @rule(sent=consumes(payloads))
    def release_payload(self, sent: tuple[Payload, int, int] | None) -> None:
        if sent is not None:
            payload, filling, offset = sent
            assert set(payload.borrow()) == {filling}
            payload.release()
            self._forget(offset)

    def _forget(self, offset: int) -> None:
        self.held[offset] -= 1
        if self.held[offset] == 0:
            del self.held[offset]

    @rule()
    def trim_all(self) -> None:
        trim(self.transport)
        statistics = self.transport.arena.statistics()
        assert statistics.resident_bytes <= statistics.loaned_bytes + PAGE * (len(self.held) + 1)

    @invariant()
    def slots_are_counted(self) -> None:
        statistics = self.transport.arena.statistics()
        assert statistics.slots == len(self.held)
        assert statistics.loaned_bytes <= self.limit

    def teardown(self) -> None:
        self.transport.arena.close()


TestArenaStates = ArenaMachine.TestCase
TestArenaStates.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
