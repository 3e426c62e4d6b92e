"""A tensor in pinned memory goes to its GPU while the handler goes on, and is kept until it has arrived.

The server lends pinned memory, and a GPU copies from it by itself once its driver has been told of it, once
in a process. The copy is ordered before whatever else is put on the current stream. With the tensor the input
is kept that it is a view of, as if the handler still looked at it: nobody else is lent these bytes meanwhile.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Protocol

import torch

from wfserve.child.inputs import address_of

if TYPE_CHECKING:
    from collections.abc import Callable

log = logging.getLogger(__name__)


class Event(Protocol):
    """A point in a device's work, which is reached some time."""

    def query(self) -> bool:
        """Say whether it has been reached."""


class Driver(Protocol):
    """What is asked of CUDA."""

    def register(self, address: int, nbytes: int, device: torch.device) -> int:
        """Pin memory of this process for good; return 0, or the error's number."""

    def copy(self, tensor: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
        """Return `tensor` on `device`, at once or on its way there on the current stream."""

    def mark(self, device: torch.device) -> Event:
        """Return the event that the device reaches after all that is on its current stream now."""


class Cuda:
    """The driver that torch has."""

    def register(self, address: int, nbytes: int, device: torch.device) -> int:
        """Pin memory; with the context of `device`, or CUDA would make one on the first GPU."""
        with torch.cuda.device(device):
            return int(torch.cuda.cudart().cudaHostRegister(address, nbytes, 0))  # type: ignore[no-untyped-call]

    def copy(self, tensor: torch.Tensor, device: torch.device, *, non_blocking: bool) -> torch.Tensor:
        """Return `tensor` on `device`."""
        return tensor.to(device, non_blocking=non_blocking)

    def mark(self, device: torch.device) -> Event:
        """Record an event on the current stream."""
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(torch.cuda.current_stream(device))
        return event


class Copies:
    """The copies of one process to its GPU, and what is kept until they have ended. Single-threaded."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._offered: memoryview | None = None
        self._pinned = range(0)  # addresses
        self._under_way: list[tuple[Event, torch.Tensor]] = []

    def offer(self, memory: memoryview | None) -> None:
        """Name the memory to be pinned, which stays mapped, when a GPU is first copied to."""
        self._offered = memory

    def to_device(self, tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
        """Return `tensor` on `device`, with its shape and dtype.

        From pinned memory, where it lies row-major, it may still be on its way: work on the current stream
        comes behind it, and `tensor` must not be written to meanwhile. From any other it has arrived.
        """
        if device.type != "cuda":
            return tensor if device == tensor.device else tensor.to(device)
        self.settle()
        if self._offered is not None:
            self._pin(self._offered, device)
        if not self._is_pinned(tensor):
            return self._driver.copy(tensor, device, non_blocking=False)
        moved = self._driver.copy(tensor, device, non_blocking=True)
        self._under_way.append((self._driver.mark(device), tensor))
        return moved

    def settle(self) -> None:
        """Let go of what has arrived; asked before a worker says which inputs it still looks at."""
        if self._under_way:
            self._under_way = [each for each in self._under_way if not each[0].query()]

    def _pin(self, memory: memoryview, device: torch.device) -> None:
        """Tell the driver of `memory`, once. Without that all works, and copies block."""
        self._offered = None
        address = address_of(memory)
        try:
            failure: Any = self._driver.register(address, memory.nbytes, device)
        except RuntimeError as error:  # CUDA's own are
            failure = error
        if failure:
            log.warning("copies to %s block: its driver does not pin memory (%s)", device, failure)
        else:
            self._pinned = range(address, address + memory.nbytes)

    def _is_pinned(self, tensor: torch.Tensor) -> bool:
        begin = tensor.data_ptr()
        within = self._pinned.start <= begin and begin + tensor.nbytes <= self._pinned.stop
        return within and tensor.nbytes > 0 and tensor.is_contiguous()


copies = Copies(Cuda())  # one in a process, as there is one driver
to_device: Callable[[torch.Tensor, torch.device], torch.Tensor] = copies.to_device
