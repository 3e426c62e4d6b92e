"""What a supervisor and its front ends say to each other; of workers they speak in `workers.loans`.

Start ──▶ Ready ──▶ Show … ──▶ Told … ──▶ Listen ──▶ Listening       a front end begins
Show ──▶ Told, NewKeys, Ask ◀──▶ Answer, Recorded                    … and goes on
Stop ──▶ Counted                                                     … and ends
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Mapping

    from wfserve.config import Config
    from wfserve.http.auth import Keys
    from wfserve.measure.family import Family
    from wfserve.registry.prepare import Blueprint
    from wfserve.state.records import Workflow as Record

Question = Literal["families", "health", "alive"]


class Start(NamedTuple):
    """Be a front end; a pidfd of the supervisor comes along."""

    number: int
    config: Config
    segment: int
    arena_bytes: int
    keys: Keys


class Ready(NamedTuple):
    """The front end has made its segment, which comes along."""


class Shown(NamedTuple):
    """What is served under a name: its versions that run, on whose workers."""

    record: Record
    versions: Mapping[str, Blueprint]


class Show(NamedTuple):
    """Serve `shown` as `name` from now on, or nothing."""

    number: int
    name: str
    shown: Shown | None


class Told(NamedTuple):
    """What the `Show` of that number says is so."""

    number: int


class Listen(NamedTuple):
    """Accept connections on the socket that comes along."""


class Listening(NamedTuple):
    """The front end accepts connections."""


class NewKeys(NamedTuple):
    """Clients show these keys from now on."""

    keys: Keys


class Ask(NamedTuple):
    """A question to the other side."""

    ticket: int
    what: Question


class Answer(NamedTuple):
    """The answer to a question."""

    ticket: int
    value: object


class Counted(NamedTuple):
    """What the front end has counted, which has answered everything."""

    families: list[Family]


class Recorded(NamedTuple):
    """A request was answered that may become the sample of its workflow."""

    name: str
    body: bytes
    headers: Mapping[str, str]


class Stop(NamedTuple):
    """Answer what has been accepted, and end."""
