"""A Workflow is consistent: its default is one of its versions, and so is whatever gets traffic.

Every change is a method that returns the workflow after it, or raises and has changed nothing.
"""

from __future__ import annotations

import dataclasses
import math
import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from wfserve.archive.spec import LARGEST, MOST_WORKERS, SHA256
from wfserve.errors import (
    BadRequestError,
    ConflictError,
    InvalidVersionError,
    ModelVersionNotFoundError,
    NotFoundError,
)
from wfserve.state.naming import check_name, check_version

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from wfserve.archive.spec import NodeSettings

LARGEST_WEIGHT = 1_000_000.0
LONGEST_HEADER = 256  # characters
SAMPLED = (
    "accept",
    "content-type",
    "x-tensor-dtype",
    "x-tensor-shape",
)  # headers that say how a body is read
LONGEST_SAMPLED = 1024  # characters of one of them
_HEADER = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")  # a token of RFC 9110, 5.6.2
_RANGES = {
    "min_workers": (0, MOST_WORKERS),
    "max_workers": (0, MOST_WORKERS),
    "batch_size": (1, LARGEST),
    "max_batch_delay_ms": (0, LARGEST),
    "timeout_ms": (1, LARGEST),
    "retry_attempts": (0, LARGEST),
}


@dataclass(frozen=True, slots=True)
class Content:
    """An archive of the content store. Raises `BadRequestError` if it can be none."""

    digest: str  # its SHA-256, 64 hexadecimal digits in lower case
    size: int  # bytes

    def __post_init__(self) -> None:
        if not SHA256.fullmatch(self.digest) or self.digest != self.digest.lower():
            raise BadRequestError(f"{self.digest[:80]!r} is not a SHA-256 in lower case.")
        if not 0 <= self.size < 1 << 63:
            raise BadRequestError(f"An archive cannot have {self.size} bytes.")


@dataclass(frozen=True, slots=True)
class LiveSettings:
    """What was changed of a node's settings since it was registered; None: as the archive has it.

    Raises `BadRequestError` for a value that a specification could not have either.
    """

    min_workers: int | None = None
    max_workers: int | None = None
    batch_size: int | None = None
    max_batch_delay_ms: int | None = None
    timeout_ms: int | None = None
    retry_attempts: int | None = None

    def __post_init__(self) -> None:
        for name, value in self.given().items():
            low, high = _RANGES[name]
            if not low <= value <= high:
                raise BadRequestError(f"{name} must be an integer from {low} to {high}, not {value}.")
        if self.min_workers is not None and self.max_workers is not None:
            _refuse_crossed(self.min_workers, self.max_workers)

    def given(self) -> dict[str, int]:
        """Return the settings that were changed, by name."""
        values = {name: getattr(self, name) for name in _RANGES}
        return {name: value for name, value in values.items() if value is not None}

    def over(self, earlier: LiveSettings) -> LiveSettings:
        """Return these settings where they are given, and `earlier` ones elsewhere."""
        return LiveSettings(**{**earlier.given(), **self.given()})

    def applied(self, settings: NodeSettings) -> NodeSettings:
        """Return `settings` of an archive with these changes. Raises `BadRequestError` if they cross."""
        given: Mapping[str, Any] = self.given()
        changed = dataclasses.replace(settings, **given)
        _refuse_crossed(changed.min_workers, changed.max_workers)
        return changed


def _refuse_crossed(least: int, most: int) -> None:
    if least > most:
        raise BadRequestError(f"min_workers {least} is more than max_workers {most}.")


@dataclass(frozen=True, slots=True)
class Version:
    """A version as it was registered, and the settings that were changed since."""

    version: str  # digits and dots
    archive: Content
    url: str  # as it was given
    given: bool = False  # somebody named this version; else it is the one of what has none
    startup_timeout: float | None = None  # seconds; None: what is configured
    response_timeout: float | None = None
    models: Mapping[str, Content] = field(default_factory=dict)  # the archives of its nodes
    settings: Mapping[str, LiveSettings] = field(default_factory=dict)  # by node, where any is changed

    def __post_init__(self) -> None:
        check_version(self.version)
        if any("\ud800" <= character <= "\udfff" for character in self.url):
            raise BadRequestError(f"{self.url!a} is not text that UTF-8 can write.")
        for seconds in (self.startup_timeout, self.response_timeout):
            if seconds is not None and not 0 < seconds < math.inf:
                raise BadRequestError(f"A timeout must be a positive number of seconds, not {seconds}.")

    def contents(self) -> Iterator[Content]:
        """Give every archive it needs."""
        yield self.archive
        yield from self.models.values()

    def with_settings(self, changed: Mapping[str, LiveSettings]) -> Version:
        """Return the version with settings of some nodes changed."""
        unchanged = LiveSettings()
        merged = {node: each.over(self.settings.get(node, unchanged)) for node, each in changed.items()}
        return dataclasses.replace(self, settings={**self.settings, **merged})


@dataclass(frozen=True, slots=True)
class Traffic:
    """Who answers requests that name no version; raises `BadRequestError` if that cannot be."""

    weights: Mapping[str, float] = field(default_factory=dict)  # by version; empty: the default answers all
    sticky_header: str | None = None  # requests of equal values go to the same version; in lower case
    shadow: str | None = None  # gets a copy of each request, and its answers are not returned

    def __post_init__(self) -> None:
        for version, weight in self.weights.items():
            if not 0 < weight <= LARGEST_WEIGHT:  # not a number is neither
                raise BadRequestError(
                    f"The weight of version {version} must be above 0, at most {LARGEST_WEIGHT:g}."
                )
        if self.sticky_header is not None and not _is_header(self.sticky_header):
            raise BadRequestError(f"{self.sticky_header[:LONGEST_HEADER]!r} cannot be the name of a header.")
        if self.shadow in self.weights:
            raise BadRequestError(f"Version {self.shadow} cannot be the shadow and answer requests as well.")

    def named(self) -> Iterator[str]:
        """Give the versions that get requests."""
        yield from self.weights
        if self.shadow is not None:
            yield self.shadow


def _is_header(name: str) -> bool:
    return bool(_HEADER.fullmatch(name)) and len(name) <= LONGEST_HEADER and name == name.lower()


@dataclass(frozen=True, slots=True)
class Sample:
    """A request that new versions have to answer. Raises `BadRequestError` if it can be none."""

    body: Content
    headers: Mapping[str, str] = field(default_factory=dict)  # of `SAMPLED`, with the client's values

    def __post_init__(self) -> None:
        for name, value in self.headers.items():
            if name not in SAMPLED:
                raise BadRequestError(f"{name[:LONGEST_HEADER]!r} is no header of a sample.")
            if len(value) > LONGEST_SAMPLED or not (value.isascii() and value.isprintable()):
                raise BadRequestError(
                    f"The header {name} of a sample must be at most {LONGEST_SAMPLED} characters of ASCII."
                )


@dataclass(frozen=True, slots=True)
class Workflow:
    """A workflow with at least one version. Raises `BadRequestError` if it contradicts itself."""

    name: str
    default: str  # the version of requests that name none
    versions: tuple[Version, ...]  # in the order of their registration
    traffic: Traffic | None = None
    previous: str | None = None  # the version that was the default before, to roll back to
    sample: Sample | None = None  # tries out new versions that bring none along
    recording: bool = False  # the next request that the default answers becomes the sample

    def __post_init__(self) -> None:
        check_name(self.name)
        names = [each.version for each in self.versions]
        if len(set(names)) < len(names):
            raise BadRequestError(f"Workflow {self.name} has a version twice.")
        traffic = self.traffic or Traffic()
        previous = () if self.previous is None else (self.previous,)
        for version in (self.default, *previous, *traffic.named()):
            self.version(version)
        if not traffic.weights and traffic.shadow == self.default:
            raise BadRequestError(f"Version {self.default} is the default and cannot be the shadow.")

    def version(self, version: str) -> Version:
        """Return a version. Raises `ModelVersionNotFoundError`."""
        for each in self.versions:
            if each.version == version:
                return each
        raise ModelVersionNotFoundError(
            f"Workflow version: {version} does not exist for workflow: {self.name}"
        )

    def contents(self) -> Iterator[Content]:
        """Give every archive that its versions need, some more than once."""
        for each in self.versions:
            yield from each.contents()
        if self.sample is not None:
            yield self.sample.body

    def with_version(self, version: Version, *, default: bool = False) -> Workflow:
        """Return the workflow with one more version. Raises `ConflictError` if it has that already."""
        if any(each.version == version.version for each in self.versions):
            raise ConflictError(
                f"Workflow version {version.version} is already registered for workflow {self.name}"
            )
        added = dataclasses.replace(self, versions=(*self.versions, version))
        return added.with_default(version.version) if default else added

    def without_version(self, version: str) -> Workflow | None:
        """Return the workflow without one version, None if that was the last.

        Raises `ModelVersionNotFoundError`, `InvalidVersionError` if it is the default of several, or
        `ConflictError` if it gets traffic.
        """
        self.version(version)
        if len(self.versions) == 1:
            return None
        if version == self.default:
            raise InvalidVersionError(f"Cannot remove default version for workflow {self.name}")
        if self.traffic is not None and version in self.traffic.named():
            raise ConflictError(f"Version {version} of workflow {self.name} gets traffic: change that first.")
        left = tuple(each for each in self.versions if each.version != version)
        previous = None if self.previous == version else self.previous
        return dataclasses.replace(self, versions=left, previous=previous)

    def with_default(self, version: str) -> Workflow:
        """Return the workflow with another default, which answers all: an earlier split of traffic ends.

        Raises `ModelVersionNotFoundError`.
        """
        self.version(version)
        previous = self.previous if version == self.default else self.default
        return dataclasses.replace(self, default=version, traffic=None, previous=previous)

    def exchanged(self, version: Version) -> Workflow:
        """Return the workflow with other archives for a version, which keeps the settings that it has.

        Raises `ModelVersionNotFoundError`.
        """
        kept = dataclasses.replace(version, settings=self.version(version.version).settings)
        versions = tuple(kept if each.version == kept.version else each for each in self.versions)
        return dataclasses.replace(self, versions=versions)

    def replaced_by(self, version: Version) -> Workflow:
        """Return the workflow with one more version, its default, and without the one that was that before.

        Raises `ConflictError` if it has the version already.
        """
        after = self.with_version(version, default=True).without_version(self.default)
        assert after is not None  # the new version is left
        return after

    def rolled_back(self) -> Workflow:
        """Return the workflow with the default that it had before.

        Raises `ConflictError` if there was none, or it has been removed.
        """
        if self.previous is None:
            raise ConflictError(f"Workflow {self.name} has no earlier default version to go back to.")
        return self.with_default(self.previous)

    def with_traffic(self, traffic: Traffic | None) -> Workflow:
        """Return the workflow with another split of traffic; None: the default answers all.

        Raises `ModelVersionNotFoundError`, or `BadRequestError` if the shadow is the default that answers.
        """
        return dataclasses.replace(self, traffic=traffic)

    def with_settings(self, version: str, changed: Mapping[str, LiveSettings]) -> Workflow:
        """Return the workflow with settings of some nodes of a version changed.

        Whether there are such nodes is not known here. Raises `ModelVersionNotFoundError`, or
        `BadRequestError` if the settings contradict earlier ones.
        """
        after = self.version(version).with_settings(changed)
        versions = tuple(after if each.version == version else each for each in self.versions)
        return dataclasses.replace(self, versions=versions)

    def with_sample(self, sample: Sample, *, recorded: bool = False) -> Workflow:
        """Return the workflow with another sample, for which no request is waited any more.

        Raises `ConflictError` if it was `recorded` and is not waited for.
        """
        if recorded and not self.recording:
            raise ConflictError(f"Workflow {self.name} does not wait for a request to record.")
        return dataclasses.replace(self, sample=sample, recording=False)

    def waiting_for_sample(self) -> Workflow:
        """Return the workflow with the wish that a request be recorded; the sample stays until then."""
        return dataclasses.replace(self, recording=True)

    def without_sample(self) -> Workflow:
        """Return the workflow without a sample, or the wish for one. Raises `NotFoundError` if none."""
        if self.sample is None and not self.recording:
            raise NotFoundError(f"Workflow {self.name} has no sample.")
        return dataclasses.replace(self, sample=None, recording=False)
