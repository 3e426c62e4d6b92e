"""A worker is placed on one GPU or none, by what its model asks for and by whose turn it is. Pure, no I/O.

Each worker is placed as TorchServe places it, when it is added; one that replaces a dead one stays there:

    deviceType     deviceIds     the model's workers go to
    cpu            any           no GPU
    gpu, or none   a list        the GPUs of the list in turn, a turn of the model's own, from the first on
    gpu, or none   no list       all GPUs in turn, one turn for all such models, from the second GPU on
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from wfserve.child.spec import WorkerSpec

PINNED_BYTES = 256 << 20  # where there are GPUs and nothing else is configured
_PARALLEL = ("pp", "tp", "pptp", "custom")


class Placement(NamedTuple):
    """The GPUs that a node's workers take in turn; none if there are none."""

    gpus: tuple[int, ...] = ()
    own_turn: bool = False  # the node counts by itself, not with all the others

    @property
    def on_gpu(self) -> bool:
        """Whether its workers have a GPU."""
        return bool(self.gpus)


def placement_of(model_config: Mapping[str, Any], count: int) -> tuple[Placement, list[str]]:
    """Return where the workers of a model go where there are `count` GPUs, and what of that is ignored.

    Raises `ValueError` if the GPUs are too few for its `parallelLevel`.
    """
    on_cpu, device_remarks = _is_for_cpu(model_config.get("deviceType"))
    listed, list_remarks = _listed(model_config.get("deviceIds"), count)
    level = _parallel_level(model_config)
    remarks = device_remarks + list_remarks
    if on_cpu or not count:
        return Placement(), remarks
    gpus = listed or tuple(range(count))
    if level:
        remarks.append(f"parallelLevel {level}: each worker is one process here, on the first of its GPUs")
        return Placement(_first_of_each(gpus, level), own_turn=True), remarks
    return Placement(gpus, own_turn=bool(listed)), remarks


def _is_for_cpu(device_type: object) -> tuple[bool, list[str]]:
    known = device_type.lower() if isinstance(device_type, str) else device_type
    if known in (None, "", "cpu", "gpu"):
        return known == "cpu", []
    return False, [f"deviceType {device_type!r} is ignored: it can be cpu or gpu"]


def _listed(device_ids: object, count: int) -> tuple[tuple[int, ...], list[str]]:
    """Return `deviceIds` if each of them is there; without a single one that is not, as in TorchServe."""
    if device_ids is None:
        return (), []
    if not isinstance(device_ids, list) or any(type(each) is not int for each in device_ids):
        return (), [f"deviceIds {device_ids!r} are ignored: they have to be a list of whole numbers"]
    for each in device_ids:
        if not 0 <= each < count:
            return (), [f"deviceIds {device_ids} are ignored: there is no GPU {each} among the {count}"]
    return tuple(device_ids), []


def _parallel_level(model_config: Mapping[str, Any]) -> int:
    """Return how many GPUs a worker wants to have to itself, 0 if it does not say."""
    kind, launch = model_config.get("parallelType"), model_config.get("torchrun")
    if not isinstance(kind, str) or kind.lower() not in _PARALLEL:
        return 0
    given = launch.get("nproc-per-node", 1) if isinstance(launch, dict) else model_config.get("parallelLevel")
    return given if type(given) is int and given > 0 else 0


def _first_of_each(gpus: Sequence[int], level: int) -> tuple[int, ...]:
    if level > len(gpus):
        raise ValueError(f"parallelLevel {level} needs as many GPUs, and there are {len(gpus)}")
    return tuple(gpus[: len(gpus) - len(gpus) % level : level])


class Gpus:
    """The GPUs of one server, and whose turn it is among nodes that go anywhere."""

    def __init__(self, count: int = 0) -> None:
        self.count = count
        self._last = 0

    def next(self) -> int:
        """Take a turn; there have to be GPUs."""
        self._last = (self._last + 1) % self.count
        return self._last


class Seats:
    """Hands out the GPUs of one node, a worker each time."""

    def __init__(self, placement: Placement, gpus: Gpus) -> None:
        self.placement = placement
        self._gpus = gpus
        self._own = itertools.cycle(placement.gpus)

    def __reduce__(self) -> tuple[object, ...]:
        """Go to another process, which starts no workers, as where they go."""
        return Seats, (self.placement, Gpus(self._gpus.count))

    def take(self) -> int | None:
        """Return the GPU of one more worker, None if it has none."""
        if not self.placement.on_gpu:
            return None
        return next(self._own) if self.placement.own_turn else self._gpus.next()


def placed(chain: Sequence[WorkerSpec], seats: Sequence[Seats]) -> tuple[WorkerSpec, ...]:
    """Return what one more worker is told that runs `chain`, a seat each.

    Nodes that ask for the same are on the same GPU; functions are where the first model is.
    """
    models = [seat for spec, seat in zip(chain, seats, strict=True) if not spec.is_function]
    anywhere = (models or seats)[0]
    chosen = [anywhere if spec.is_function else seat for spec, seat in zip(chain, seats, strict=True)]
    taken = {seat.placement: seat.take() for seat in {each.placement: each for each in chosen}.values()}
    return tuple(
        replace(spec, gpu_id=taken[seat.placement]) for spec, seat in zip(chain, chosen, strict=True)
    )


def pinned_bytes(configured: int | None, gpus: int) -> int:
    """Return how large the pinned segment of a server with so many GPUs is; 0 where it would serve nobody."""
    if not gpus:
        return 0
    return PINNED_BYTES if configured is None else configured
