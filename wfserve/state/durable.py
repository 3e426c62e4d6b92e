"""A State is what its last acknowledged change left, however the process ended that made it.

    <state directory>/registry/   renamed as a whole when it is damaged
        state.sqlite              workflows and the log of changes (`store`)
        contents/                 their archives (`contents`)

What is asked for is answered from memory. A change waits for the disk, a millisecond or ten, and belongs into
a thread; threads may share a State, and of two changes the second sees the first.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from wfserve.errors import ConfigError, WorkflowNotFoundError
from wfserve.state.contents import Contents
from wfserve.state.files import StateError, failures_told, make_directory, put_aside
from wfserve.state.records import LiveSettings, Sample, Traffic, Version, Workflow
from wfserve.state.store import Author, Change, DamagedError, Store

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from pathlib import Path

    from wfserve.state.records import Content

HOME = "registry"
DATABASE = "state.sqlite"
CONTENTS = "contents"


@dataclass(frozen=True, slots=True)
class Problem:
    """What was found damaged when a state was opened, in one line for the log."""

    message: str
    workflow: str | None = None  # which lacks an archive; None: it is about the whole state
    version: str | None = None


class State:
    """The workflows of one state directory, their archives, and who changed what. Made by `open_state`.

    Every change takes the `Author` that the log names. It raises `StateError` if it could not be made
    durable, or what the records refuse, and then nothing has changed.
    """

    def __init__(self, store: Store, contents: Contents) -> None:
        self.contents = contents
        self._store = store
        self._lock = threading.Lock()  # from what a change looks at to where it is on the disk
        self._workflows: Mapping[str, Workflow] = store.read()

    @property
    def workflows(self) -> Mapping[str, Workflow]:
        """Every workflow by name, the first registered first; what was returned never changes."""
        return self._workflows

    def workflow(self, name: str) -> Workflow:
        """Return a workflow. Raises `WorkflowNotFoundError`."""
        if name not in self._workflows:
            raise WorkflowNotFoundError(f"Workflow not found: {name}")
        return self._workflows[name]

    def add_version(
        self, author: Author, name: str, version: Version, *, default: bool = False, replace: bool = False
    ) -> Workflow:
        """Add a version, whose archives are in the content store, to a workflow or as a new one's first.

        With `replace` it is the default, and the one before that is removed. Raises `ConflictError` if the
        workflow has it.
        """

        def decide() -> Workflow:
            if name not in self._workflows:
                return Workflow(name, version.version, (version,))
            was = self._workflows[name]
            return was.replaced_by(version) if replace else was.with_version(version, default=default)

        arguments = {"version": version.version, "url": version.url, "default": default, "replace": replace}
        return self.change(author, "register", name, arguments, lambda: {name: decide()})[name]

    def exchange_version(
        self, author: Author, name: str, version: Version, *, default: bool = False, replace: bool = False
    ) -> Workflow:
        """Have other archives, which are in the content store, for a version that there is.

        With `default` and `replace` it becomes what `add_version` makes of one, unless it is the default.
        Nothing is logged if nothing changes. Raises as `Workflow.exchanged` does.
        """

        def decide(was: Workflow) -> Workflow | None:
            after = was.exchanged(version)
            if after.default == version.version or not (default or replace):
                return after
            chosen = after.with_default(version.version)
            return chosen.without_version(was.default) if replace else chosen

        if self.workflow(name) == decide(self.workflow(name)):
            return self.workflow(name)
        arguments = {"version": version.version, "url": version.url, "again": True}
        arguments |= {"default": default, "replace": replace}
        return self._change(author, "register", name, arguments, decide)[name]

    def remove_version(self, author: Author, name: str, version: str) -> Workflow | None:
        """Remove a version, and with the last one the workflow; return what is left of it.

        Raises as `Workflow.without_version` does, or `WorkflowNotFoundError`.
        """
        arguments = {"version": version}
        after = self._change(author, "unregister", name, arguments, lambda was: was.without_version(version))
        return after.get(name)

    def remove(self, author: Author, name: str) -> None:
        """Remove a workflow with all of its versions. Raises `WorkflowNotFoundError`."""
        self._change(author, "unregister", name, {}, lambda _: None)

    def set_default(self, author: Author, name: str, version: str) -> Workflow:
        """Let a version answer what names none. Raises as `Workflow.with_default` does."""
        arguments = {"version": version}
        after = self._change(author, "set-default", name, arguments, lambda was: was.with_default(version))
        return after[name]

    def roll_back(self, author: Author, name: str) -> Workflow:
        """Let the version answer that was the default before. Raises as `Workflow.rolled_back` does."""
        return self._change(author, "rollback", name, {}, Workflow.rolled_back)[name]

    def set_traffic(self, author: Author, name: str, traffic: Traffic | None) -> Workflow:
        """Split the requests that name no version. Raises as `Workflow.with_traffic` does."""
        given = traffic or Traffic()
        arguments = {
            "weights": dict(given.weights),
            "sticky_header": given.sticky_header,
            "shadow": given.shadow,
        }
        after = self._change(author, "traffic", name, arguments, lambda was: was.with_traffic(traffic))
        return after[name]

    def set_sample(self, author: Author, name: str, sample: Sample, *, recorded: bool = False) -> Workflow:
        """Keep a request, whose body is in the content store, to try new versions out.

        Raises as `Workflow.with_sample` does, or `WorkflowNotFoundError`.
        """
        arguments = {**sample.headers, "bytes": sample.body.size, "recorded": recorded}
        after = self._change(
            author, "sample", name, arguments, lambda was: was.with_sample(sample, recorded=recorded)
        )
        return after[name]

    def await_sample(self, author: Author, name: str) -> Workflow:
        """Have the next request that the default answers be kept. Raises `WorkflowNotFoundError`."""
        return self._change(author, "sample", name, {"record": True}, Workflow.waiting_for_sample)[name]

    def remove_sample(self, author: Author, name: str) -> Workflow:
        """Forget a sample. Raises as `Workflow.without_sample` does, or `WorkflowNotFoundError`."""
        return self._change(author, "remove sample", name, {}, Workflow.without_sample)[name]

    def clear(self, author: Author) -> None:
        """Remove every workflow."""
        self.change(author, "clear", None, {}, lambda: dict.fromkeys(self._workflows))

    def set_settings(
        self, author: Author, name: str, version: str, settings: Mapping[str, LiveSettings]
    ) -> Workflow:
        """Change settings of nodes of a version. Raises as `Workflow.with_settings` does."""
        arguments = {"version": version, "nodes": {node: each.given() for node, each in settings.items()}}
        after = self._change(
            author, "settings", name, arguments, lambda was: was.with_settings(version, settings)
        )
        return after[name]

    def change(
        self,
        author: Author,
        what: str,
        name: str | None,
        arguments: Mapping[str, Any],
        decide: Callable[[], Mapping[str, Workflow | None]],
    ) -> Mapping[str, Workflow]:
        """Make workflows what `decide` says, None for none, in one change; return all there are after it.

        The log says that `what` was done to `name`. No other change happens while `decide` runs.
        """
        with self._lock:
            changed = decide()
            self._store.write(changed, Change(author, what, name, arguments))
            after = {**self._workflows, **changed}
            self._workflows = {key: workflow for key, workflow in after.items() if workflow is not None}
            return self._workflows

    def _change(
        self,
        author: Author,
        what: str,
        name: str,
        arguments: Mapping[str, Any],
        decide: Callable[[Workflow], Workflow | None],
    ) -> Mapping[str, Workflow]:
        """Change one workflow that there is."""
        return self.change(author, what, name, arguments, lambda: {name: decide(self.workflow(name))})

    def record_refusal(
        self, author: Author, what: str, name: str | None, arguments: Mapping[str, Any], error: str
    ) -> None:
        """Log a change that was asked for and refused, with the error's message."""
        with self._lock:
            self._store.write({}, Change(author, what, name, arguments, error))

    def history(
        self, limit: int = 100, before: int | None = None, workflow: str | None = None
    ) -> list[Change]:
        """Return up to `limit` changes, the newest first: those below a number, and of one workflow.

        Raises `StateError`.
        """
        with self._lock:
            return self._store.history(limit, before, workflow)

    def collect(self) -> list[str]:
        """Remove the archives that no version needs; return their digests. Raises `StateError`."""
        return self.contents.collect(self._digests)

    def _digests(self) -> set[str]:
        return {content.digest for workflow in self._workflows.values() for content in workflow.contents()}

    def close(self) -> None:
        """Close the database; nothing may be asked of the state any more."""
        with self._lock:
            self._store.close()


def open_state(directory: Path) -> tuple[State, list[Problem]]:
    """Open the state in `directory`, whose lock is held, or make an empty one; tell what is damaged.

    A database that is corrupt, not ours, or of a newer wfserve is put aside together with its archives, and
    so is one that is gone while archives are there; then the state is empty, and whenever it is opened what
    lies aside is told again. Archives that are missing leave the state as it is: their versions cannot be
    served until they are put again or the versions are removed. What nothing needs is collected.

    Raises `ConfigError` if the system does not let us use the directory.
    """
    try:
        with failures_told(f"use the state directory {directory}"):
            directory.mkdir(parents=True, exist_ok=True)
            state, problems = _open_or_put_aside(directory / HOME)
            aside = sorted(directory.glob(f"{HOME}.damaged-*"))
            problems += [Problem(f"a damaged registry lies aside: {path}") for path in aside]
    except StateError as error:
        raise ConfigError(error.message) from error
    return state, problems


def _open_or_put_aside(home: Path) -> tuple[State, list[Problem]]:
    make_directory(home)
    try:
        return _open(home)
    except DamagedError as error:
        put_aside(home)
        make_directory(home)
        state, _ = _open(home)
        return state, [Problem(f"{error.message}; the registry was put aside and is empty now")]


def _open(home: Path) -> tuple[State, list[Problem]]:
    store = Store(home / DATABASE)
    try:
        contents = Contents(home / CONTENTS)
        if store.is_new and not contents.is_empty():
            raise DamagedError(f"{home / DATABASE} is gone, though {home / CONTENTS} has its archives")
        state = State(store, contents)
        problems = list(_missing(state))
        state.collect()
        return state, problems
    except BaseException:
        store.close()
        raise


def _missing(state: State) -> Iterator[Problem]:
    """Give a problem for each version that lacks an archive, and each workflow that lacks its sample."""
    for workflow in state.workflows.values():
        for version in workflow.versions:
            lost = f"version {version.version} of workflow {workflow.name} cannot be served"
            for content in dict.fromkeys(version.contents()):
                if (why := _why_not(state, content)) is not None:
                    yield Problem(f"{lost}: {why}", workflow.name, version.version)
        if workflow.sample is not None and (why := _why_not(state, workflow.sample.body)) is not None:
            yield Problem(f"the sample of workflow {workflow.name} is lost: {why}", workflow.name)


def _why_not(state: State, content: Content) -> str | None:
    """Return why `content` cannot be read, None if it can."""
    try:
        state.contents.path(content)
    except StateError as error:
        return error.message
    return None
