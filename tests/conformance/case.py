"""A Suite is one file of `cases/`, as read: what is packed and registered for all of its cases, and these.

    section: D                      # archives A, specification B, REST C, handlers D, DAG E
    settings: plain                 # the entry of settings.yaml that the server runs with
    archives: {a.war: …}            # see recipes.py
    register: [a.war]               # before the first case
    cases:
      - case: what holds            # one step, or a list of `steps`; `archives` and `register` of its own
        send: POST inference /wfpredict/a
        headers: {X-A: b}
        type: text/plain            # short for the header Content-Type
        body: text                  # or json, size (so many bytes), parts (multipart/form-data), chunks
        expect: {status: 200}       # see judge.py
        difference: {because: name, torchserve: {status: 500}}  # a name of docs/compatibility.md

`$name` in a path, a header or an expectation stands for a variable of the target, see targets.py.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

CASES = Path(__file__).with_name("cases")
BOUNDARY = "the-boundary"
BODIES = frozenset({"body", "json", "size", "parts", "chunks"})
STEP = BODIES | {"send", "headers", "type", "expect", "difference"}


@dataclass(frozen=True)
class Difference:
    """What TorchServe does where wfserve differs on purpose; `because` names the reason."""

    because: str
    torchserve: Mapping[str, Any]


@dataclass(frozen=True)
class Step:
    """One request, and what must hold of its response."""

    method: str
    api: str
    path: str
    headers: Mapping[str, str]
    body: bytes | Sequence[bytes]  # a sequence is sent in chunks
    expect: Mapping[str, Any]
    difference: Difference | None

    def expected_of(self, *, torchserve: bool) -> Mapping[str, Any]:
        return self.difference.torchserve if torchserve and self.difference else self.expect


@dataclass(frozen=True)
class Case:
    """Steps that belong together, on archives of their own."""

    title: str
    steps: Sequence[Step]
    archives: Mapping[str, Any]
    register: Sequence[str]

    @property
    def differences(self) -> list[str]:
        return [step.difference.because for step in self.steps if step.difference]


@dataclass(frozen=True)
class Suite:
    """The cases of one file."""

    name: str
    section: str
    settings: str
    archives: Mapping[str, Any]
    register: Sequence[str]
    cases: Sequence[Case]


def suites() -> Iterator[Suite]:
    """Read every file of `cases/`, in the order of their names."""
    for path in sorted(CASES.glob("*.yaml")):
        try:
            yield _suite(path.stem, **yaml.safe_load(path.read_text()))
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"{path.name}: {error}") from error


def settings() -> dict[str, dict[str, str]]:
    """Return the properties of each setting that suites name."""
    read: dict[str, dict[str, str]] = yaml.safe_load(Path(__file__).with_name("settings.yaml").read_text())
    return read


def _suite(
    name: str,
    section: str,
    cases: list[dict[str, Any]],
    settings: str = "plain",
    archives: Mapping[str, Any] | None = None,
    register: Sequence[str] = (),
) -> Suite:
    return Suite(name, section, settings, archives or {}, register, [_case(**each) for each in cases])


def _case(
    case: str,
    archives: Mapping[str, Any] | None = None,
    register: Sequence[str] = (),
    steps: list[dict[str, Any]] | None = None,
    **step: Any,
) -> Case:
    if steps is not None and step:
        raise ValueError(f"{case!r}: {', '.join(step)} beside steps")
    return Case(case, [_step(each) for each in steps or [step]], archives or {}, register)


def _step(given: dict[str, Any]) -> Step:
    unknown = given.keys() - STEP
    if unknown or len(given.keys() & BODIES) > 1:
        raise ValueError(f"{given['send']!r} has {', '.join(unknown) or 'several bodies'}")
    method, api, path = given["send"].split(" ", 2)
    mime, body = _body(given)
    headers = {"Content-Type": given.get("type", mime)} | given.get("headers", {})
    difference = Difference(**given["difference"]) if "difference" in given else None
    sent = {name: str(value) for name, value in headers.items() if value is not None}
    return Step(method, api, path, sent, body, given["expect"], difference)


def _body(given: dict[str, Any]) -> tuple[str | None, bytes | list[bytes]]:
    if "json" in given:
        return "application/json", json.dumps(given["json"]).encode()
    if "parts" in given:
        return f"multipart/form-data; boundary={BOUNDARY}", _multipart(given["parts"])
    if "chunks" in given:
        return None, [_bytes(chunk) for chunk in given["chunks"]]
    return None, b"x" * given["size"] if "size" in given else _bytes(given.get("body", b""))


def _bytes(value: str | bytes) -> bytes:
    return value.encode() if isinstance(value, str) else value


def _multipart(parts: Sequence[Mapping[str, Any]]) -> bytes:
    lines = []
    for part in parts:
        filename = f'; filename="{part["filename"]}"' if "filename" in part else ""
        lines += [f"--{BOUNDARY}", f'Content-Disposition: form-data; name="{part["name"]}"{filename}']
        lines += [f"Content-Type: {part['type']}"] if "type" in part else []
        lines += ["", part["value"]]
    return b"\r\n".join(_bytes(line) for line in [*lines, f"--{BOUNDARY}--", ""])
