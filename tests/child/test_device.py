"""What is copied from pinned memory stays lent until it has arrived; everything else is copied at once."""

import gc
import weakref

import pytest
import torch

from wfserve.child import device
from wfserve.child.device import Copies, Cuda
from wfserve.child.inputs import Inputs
from wfserve.child.tensors import write_elements
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.message import Ref
from wfserve.transport.shm import ShmTransport

MIB = 1 << 20
GPU = torch.device("cuda", 1)


class Arrival:
    """An event that is reached when a test says so."""

    def __init__(self):
        self.reached = False

    def query(self):
        return self.reached


class Fake:
    """A driver whose GPU is the CPU's memory."""

    def __init__(self, error=0):
        self.error = error
        self.registered = []
        self.copied = []  # whether each went on its own
        self.events = []

    def register(self, address, nbytes, gpu):
        self.registered.append((address, nbytes, gpu))
        if isinstance(self.error, Exception):
            raise self.error
        return self.error

    def copy(self, tensor, gpu, *, non_blocking):
        assert gpu == GPU
        self.copied.append(non_blocking)
        return tensor.clone()

    def mark(self, gpu):
        self.events.append(Arrival())
        return self.events[-1]


@pytest.fixture
def transport():
    """One with a pinned segment."""
    with ShmTransport(MIB, pinned_bytes=MIB) as transport:
        yield transport


@pytest.fixture
def link(transport):
    """A child's end."""
    server, port = transport.connect()
    yield port.attach()
    server.close()


@pytest.fixture
def fake():
    return Fake()


@pytest.fixture
def copies(fake, link):
    made = Copies(fake)
    made.offer(link.pinned)
    return made


def lent(arena, count=16):
    """`count` floats in an arena: their payload."""
    loan = arena.loan(4 * count)
    loan.buffer[: 4 * count] = bytes(torch.arange(count, dtype=torch.float32).numpy())
    payload = loan.publish(pack_header(Kind.TENSOR, 4 * count, "float32", [count]), 0, 4 * count)
    loan.release()
    return payload


def borrowed(link, payload, inputs=None):
    view = (inputs or Inputs(link)).borrow(Ref(payload.header, payload.descriptor))
    return torch.frombuffer(view, dtype=torch.float32)


def test_pinned_memory_is_copied_while_the_handler_goes_on(copies, fake, link, transport):
    payload = lent(transport.pinned)
    moved = copies.to_device(borrowed(link, payload), GPU)
    assert moved.tolist() == list(range(16))
    assert fake.copied == [True]


def test_an_input_is_looked_at_until_its_copy_has_arrived(copies, fake, link, transport):
    payload, inputs = lent(transport.pinned), Inputs(link)
    copies.to_device(borrowed(link, payload, inputs), GPU)
    copies.settle()
    (kept,) = inputs.kept()
    assert kept.descriptor == payload.descriptor
    fake.events[0].reached = True
    copies.settle()
    assert inputs.kept() == []


def test_the_next_copy_lets_go_of_those_that_have_arrived(copies, fake, link, transport):
    payloads = [lent(transport.pinned) for _ in range(3)]
    tensors = [borrowed(link, payload) for payload in payloads]
    looked_at = [weakref.ref(tensor) for tensor in tensors]
    for tensor in tensors[:2]:
        copies.to_device(tensor, GPU)
    fake.events[1].reached = True
    copies.to_device(tensors[2], GPU)
    del tensors, tensor
    gc.collect()
    assert [each() is not None for each in looked_at] == [True, False, True]


def test_the_driver_is_told_once_of_all_of_it_when_it_is_first_needed(copies, fake, link, transport):
    payload = lent(transport.pinned)
    assert fake.registered == []
    for _ in range(2):
        copies.to_device(borrowed(link, payload), GPU)
    (told,) = fake.registered
    assert told == (torch.frombuffer(link.pinned, dtype=torch.uint8).data_ptr(), MIB, GPU)


@pytest.mark.parametrize("error", [2, RuntimeError("CUDA error: not permitted")])
def test_without_the_drivers_help_copies_block(link, transport, error, caplog):
    fake = Fake(error)
    copies = Copies(fake)
    copies.offer(link.pinned)
    payload = lent(transport.pinned)
    for _ in range(2):
        assert copies.to_device(borrowed(link, payload), GPU).tolist() == list(range(16))
    assert fake.copied == [False, False]
    assert len(fake.registered) == len(caplog.records) == 1
    assert str(error) in caplog.text


def test_other_memory_is_copied_at_once(copies, fake, link, transport):
    pinned = borrowed(link, lent(transport.pinned))
    for tensor in (torch.ones(3), borrowed(link, lent(transport.arena)), pinned[::2], pinned[:0]):
        assert torch.equal(copies.to_device(tensor, GPU), tensor)
    assert fake.copied == [False] * 4
    assert fake.events == []


def test_what_reaches_beyond_pinned_memory_is_copied_at_once(fake):
    memory = bytearray(64)
    copies = Copies(fake)
    copies.offer(memoryview(memory)[:32])
    whole = torch.frombuffer(memory, dtype=torch.float32)
    for part in (whole[:8], whole[1:9], whole[8:]):
        copies.to_device(part, GPU)
    assert fake.copied == [True, False, False]


def test_where_nothing_is_pinned_the_driver_is_told_nothing(fake):
    copies = Copies(fake)
    copies.offer(None)
    for count in (3, 0):
        copies.to_device(torch.ones(count), GPU)
    assert (fake.registered, fake.copied) == ([], [False, False])


def test_on_the_cpu_nothing_happens(copies, fake, link, transport):
    tensor = borrowed(link, lent(transport.pinned))
    assert copies.to_device(tensor, torch.device("cpu")) is tensor
    assert fake.registered == []


def test_without_an_offer_a_worker_copies_all_the_same():
    ones = torch.ones(3)
    assert device.to_device(ones, torch.device("cpu")) is ones


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_result_on_a_device_is_written_where_it_will_be_read(link, transport):
    loan = transport.pinned.loan(64)
    value = torch.arange(8, device="cuda", dtype=torch.float32)
    write_elements(value, link.map(loan.descriptor)[:32])
    write_elements(value.view(2, 4).T, link.map(loan.descriptor)[32:])
    assert torch.frombuffer(loan.buffer, dtype=torch.float32).tolist() == [*range(8), 0, 4, 1, 5, 2, 6, 3, 7]
    loan.release()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no CUDA device")
def test_a_real_driver_copies_from_it(link, transport):
    gpu = torch.device("cuda", 0)
    copies = Copies(Cuda())
    copies.offer(link.pinned)
    payload, inputs = lent(transport.pinned, 2**16), Inputs(link)
    tensor = borrowed(link, payload, inputs)
    assert not tensor.is_pinned()
    moved = copies.to_device(tensor, gpu)
    assert tensor.is_pinned()
    assert moved.device == gpu
    assert torch.equal(moved.cpu(), tensor)
    del tensor
    copies.settle()
    assert inputs.kept() == []
