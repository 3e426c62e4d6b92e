"""What is served under a name is one value, exchanged as a whole: no request sees a change half made."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from wfserve.errors import (
    ModelNotFoundError,
    ModelVersionNotFoundError,
    ServiceUnavailableError,
    WorkflowNotFoundError,
)
from wfserve.registry.traffic import Split

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from wfserve.registry.prepare import NodePlan
    from wfserve.registry.workflow import Workflow
    from wfserve.state.records import Workflow as Record

    Headers = Iterable[tuple[bytes, bytes]]

MAX_PAGE = 100


@dataclass(frozen=True, slots=True)
class Served:
    """The versions of one name, those that run among them, and who answers requests that name none."""

    record: Record
    running: Mapping[str, Workflow]  # by version, in the order of registration
    given: bool  # somebody named a version; else there is one, and requests cannot name any
    split: Split | None  # of requests that name no version; None: the default has them all
    shadow: Workflow | None  # has a copy of each of those

    @classmethod
    def of(cls, record: Record, running: Mapping[str, Workflow]) -> Served:
        """Return what `record` says, of which these versions are `running`."""
        traffic = record.traffic
        shadow = None if traffic is None or traffic.shadow is None else running.get(traffic.shadow)
        weights = {} if traffic is None else traffic.weights
        able = {version: weight for version, weight in weights.items() if version in running}
        split = None if traffic is None or not able else Split(able, traffic.sticky_header)
        return cls(record, running, any(each.given for each in record.versions), split, shadow)

    @property
    def name(self) -> str:
        """Its name."""
        return self.record.name

    @property
    def url(self) -> str:
        """Where the archive of the default version came from, as it was given."""
        return self.record.version(self.record.default).url

    @property
    def is_a_model(self) -> bool:
        """Whether its versions have one node of its name, which then answers to that name alone as well."""
        return bool(self.running) and all([*w.blueprint.nodes] == [self.name] for w in self.running.values())

    def version(self, version: str | None = None) -> Workflow:
        """Return a version that runs, by default the default.

        Raises `ModelVersionNotFoundError`, or `ServiceUnavailableError` if it has not been loaded again.
        """
        wanted = self.record.default if version is None else version
        if wanted not in self.running:
            self.record.version(wanted)
            raise ServiceUnavailableError(
                f"Version {wanted} of workflow {self.name} has not been loaded.", retry_after=1
            )
        return self.running[wanted]

    def answering(self, version: str | None, headers: Headers) -> Workflow:
        """Return which version answers a request that names `version`, if that means anything here.

        Raises as `version` does.
        """
        if version and self.given:
            return self.version(version)
        return self.version(None if self.split is None else self.split.pick(headers))

    def label(self, version: str) -> str | None:
        """Return by which version one is told from the others, None if there can be no others."""
        return version if self.given else None


class Serving:
    """Every name, and the nodes behind them by theirs."""

    def __init__(self) -> None:
        self._served: dict[str, Served] = {}
        self._nodes: dict[str, tuple[str, str]] = {}  # registered name → name of the workflow, node

    def __iter__(self) -> Iterator[Workflow]:
        """Give every version that runs."""
        for served in self._served.values():
            yield from served.running.values()

    @property
    def names(self) -> list[Served]:
        """Return what is served, by name, the first registered first."""
        return list(self._served.values())

    def publish(self, name: str, served: Served | None) -> None:
        """Serve `served` as `name` from now on, or nothing."""
        if served is None:
            self._served.pop(name, None)
        else:
            self._served[name] = served
        alone = {each: (each, each) for each, one in self._served.items() if one.is_a_model}
        self._nodes = alone | {
            plan.worker.name: (each.name, plan.node)
            for each in reversed(self._served.values())  # of equal names, `a` with `b__c` and `a__b` with `c`
            for workflow in each.running.values()
            for plan in workflow.blueprint.nodes.values()
        }

    def find(self, name: str) -> Served | None:
        """Return what is served as `name`, if anything is."""
        return self._served.get(name)

    def served(self, name: str) -> Served:
        """Return what is served as `name`. Raises `WorkflowNotFoundError`."""
        served = self._served.get(name)
        if served is None:
            raise WorkflowNotFoundError(f"Workflow not found: {name}")
        return served

    def lookup(self, name: str, version: str | None = None) -> Workflow:
        """Return a version that runs, by default the default.

        Raises `WorkflowNotFoundError`, or as `Served.version` does.
        """
        return self.served(name).version(version)

    def node(self, name: str, version: str | None = None) -> tuple[Workflow, NodePlan]:
        """Return the node that is registered as `name`, `W__N` and its workflow, of one version.

        Where versions were given the node has the workflow's. Raises `ModelNotFoundError`,
        `ModelVersionNotFoundError` if there is no such version, or as `Served.version` does.
        """
        if name not in self._nodes:
            raise ModelNotFoundError(f"Model not found: {name}")
        workflow_name, node = self._nodes[name]
        served = self._served[workflow_name]
        if not served.given:
            workflow = served.version()
            plan = workflow.blueprint.nodes[node]  # as it is by now: it may have been changed
            if version not in (None, plan.version):
                raise _no_version(name, version)
            return workflow, plan
        wanted = served.record.default if version is None else version
        if all(each.version != wanted for each in served.record.versions):
            raise _no_version(name, wanted)
        workflow = served.version(wanted)
        if node not in workflow.blueprint.nodes:
            raise _no_version(name, wanted)
        return workflow, replace(workflow.blueprint.nodes[node], version=workflow.version)

    def nodes(self, name: str) -> list[tuple[Workflow, NodePlan]]:
        """Return the node that is registered as `name` in every version. Raises `ModelNotFoundError`."""
        if name not in self._nodes:
            raise ModelNotFoundError(f"Model not found: {name}")
        workflow_name, node = self._nodes[name]
        served = self._served[workflow_name]
        having = (each for each in served.running.values() if node in each.blueprint.nodes)
        return [self.node(name, served.label(each.version)) for each in having]

    def page(self, limit: int, offset: int) -> tuple[list[Served], int | None]:
        """Return a page of what is served by name, and the next offset, as `paged` has it."""
        names, following = paged(sorted(self._served), limit, offset)
        return [self._served[name] for name in names], following


def _no_version(name: str, version: str | None) -> ModelVersionNotFoundError:
    return ModelVersionNotFoundError(f"Model version: {version} does not exist for model: {name}")


def paged(names: list[str], limit: int, offset: int) -> tuple[list[str], int | None]:
    """Return up to `limit` of `names` from `offset` on, and the next offset if there may be more.

    A limit outside 0 … 100 means 100 and a negative offset 0, as in TorchServe; so does a next offset that
    equals the count.
    """
    limit = limit if 0 <= limit <= MAX_PAGE else MAX_PAGE
    offset = max(0, offset)
    end = offset + limit
    return names[offset:end], end if end <= len(names) else None
