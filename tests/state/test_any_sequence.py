"""Any sequence of changes, reopened after each and after a death at any step of one, equals a plain model."""

import shutil
import tempfile
from copy import deepcopy
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from tests.dying import MEMORY, die_at, dies
from tests.state.acts import EMPTY, make, opened_to_make
from tests.states import AUTHOR, opened
from wfserve.errors import WfserveError
from wfserve.state.records import LiveSettings, Version

NAMES = st.sampled_from(["v", "w"])
VERSIONS = st.sampled_from(["1.0", "1.10", "2"])
WORKERS = st.none() | st.integers(0, 3)
CHANGES = st.one_of(
    st.tuples(st.just("add"), NAMES, VERSIONS, st.booleans()),
    st.tuples(st.just("remove_version"), NAMES, VERSIONS),
    st.tuples(st.just("remove"), NAMES),
    st.tuples(st.just("default"), NAMES, VERSIONS),
    st.tuples(st.just("traffic"), NAMES, st.sets(VERSIONS, max_size=2), st.none() | VERSIONS),
    st.tuples(st.just("settings"), NAMES, VERSIONS, WORKERS, WORKERS),
    st.tuples(st.just("sample"), NAMES, st.sampled_from(["given", "awaited", "recorded", "removed"])),
)


class RefusedError(Exception):
    """What the model says where the state has an error; the message is the error's type."""


def expect(model, change):
    """Return what a change makes of a model, `{name: {"default", "previous", "versions", "traffic", …}}`."""
    model = deepcopy(model)
    what, name, *given = change
    if what == "traffic" and given[1] in given[0]:
        raise RefusedError("BadRequestException")
    if what == "settings":
        _refuse_crossed(*given[1:])
    if what == "add" and name not in model:
        model[name] = {"default": given[0], "previous": None, "versions": {given[0]: {}}, "traffic": None}
        model[name] |= {"sample": None, "recording": False}
        return model
    if name not in model:
        raise RefusedError("WorkflowNotFoundException")
    if what == "remove":
        del model[name]
        return model
    {
        "add": _add,
        "remove_version": _remove,
        "default": _default,
        "traffic": _traffic,
        "settings": _set,
        "sample": _sample,
    }[what](model[name], *given)
    return {key: workflow for key, workflow in model.items() if workflow["versions"]}


def outcome(model, change):
    """Return the model after a change, and the type of the error if it is refused."""
    try:
        return expect(model, change), None
    except RefusedError as refused:
        return model, str(refused)


def _refuse_crossed(least, most):
    if least is not None and most is not None and least > most:
        raise RefusedError("BadRequestException")


def _refuse_unknown(workflow, *versions):
    if set(versions) - set(workflow["versions"]):
        raise RefusedError("ModelVersionNotFoundException")


def _add(workflow, version, default):
    if version in workflow["versions"]:
        raise RefusedError("ConflictStatusException")
    workflow["versions"][version] = {}
    if default:
        _default(workflow, version)


def _default(workflow, version):
    _refuse_unknown(workflow, version)
    if version != workflow["default"]:
        workflow["previous"] = workflow["default"]
    workflow["default"], workflow["traffic"] = version, None


def _remove(workflow, version):
    _refuse_unknown(workflow, version)
    if len(workflow["versions"]) > 1:
        if version == workflow["default"]:
            raise RefusedError("InvalidModelVersionException")
        weights, shadow = workflow["traffic"] or (set(), None)
        if version in {*weights, shadow}:
            raise RefusedError("ConflictStatusException")
    if version == workflow["previous"]:
        workflow["previous"] = None
    del workflow["versions"][version]


def _traffic(workflow, weights, shadow):
    _refuse_unknown(workflow, *weights, *({shadow} - {None}))
    if not weights and shadow == workflow["default"]:
        raise RefusedError("BadRequestException")
    workflow["traffic"] = weights, shadow


def _set(workflow, version, least, most):
    _refuse_unknown(workflow, version)
    before = workflow["versions"][version]
    after = before | {key: value for key, value in zip("<>", (least, most), strict=True) if value is not None}
    _refuse_crossed(after.get("<"), after.get(">"))
    workflow["versions"][version] = after


def _sample(workflow, kind):
    if kind == "recorded" and not workflow["recording"]:
        raise RefusedError("ConflictStatusException")
    if kind == "removed" and not (workflow["sample"] or workflow["recording"]):
        raise RefusedError("ResourceNotFoundException")
    workflow["recording"] = kind == "awaited"
    if kind != "awaited":
        workflow["sample"] = None if kind == "removed" else kind


def seen(state):
    """What a state says, as the model has it."""
    return {
        name: {
            "default": workflow.default,
            "previous": workflow.previous,
            "versions": {each.version: _settings(each) for each in workflow.versions},
            "traffic": workflow.traffic and (set(workflow.traffic.weights), workflow.traffic.shadow),
            "sample": workflow.sample and workflow.sample.headers["accept"],
            "recording": workflow.recording,
        }
        for name, workflow in state.workflows.items()
    }


def _settings(version):
    settings = version.settings.get("n", LiveSettings())
    both = {"<": settings.min_workers, ">": settings.max_workers}
    return {key: value for key, value in both.items() if value is not None}


class AnySequence(RuleBasedStateMachine):
    def __init__(self):
        super().__init__()
        self.scratch = Path(tempfile.mkdtemp(dir=MEMORY))
        self.directory = self.scratch / "state"
        self.model = {}
        self.acknowledged = 0
        with opened(self.directory) as state, state.contents.transfer() as transfer:
            (self.scratch / "empty").touch()
            assert transfer.put(self.scratch / "empty") == EMPTY
            self.keep(state)

    def keep(self, state):
        """Keep the archive in use, so that it is never collected."""
        state.add_version(AUTHOR, "keeper", Version("1.0", EMPTY, "w.war"))
        self.model = seen(state)
        self.acknowledged = 1

    def teardown(self):
        shutil.rmtree(self.scratch)

    @rule(change=CHANGES)
    def made(self, change):
        expected, error = outcome(self.model, change)
        with opened(self.directory) as state:
            if error:
                with pytest.raises(WfserveError) as found:
                    make(state, change)
                assert found.value.type == error
            else:
                make(state, change)
                self.acknowledged += 1
            assert seen(state) == expected
        self.model = expected

    @rule(change=CHANGES, step=st.integers(1, 250))
    def died(self, change, step):
        expected, error = outcome(self.model, change)
        if error:
            return
        has_died = dies(die_at, step, "wfserve/state", opened_to_make, self.directory, change)
        with opened(self.directory) as state:
            is_made = len(state.history(1000)) > self.acknowledged
            assert is_made or has_died
            assert seen(state) == (expected if is_made else self.model)
            self.model = seen(state)
            self.acknowledged += is_made

    @invariant()
    def it_is_what_was_acknowledged(self):
        with opened(self.directory) as state:
            assert seen(state) == self.model
            assert list(state.workflows) == list(self.model)
            assert len(state.history(1000)) == self.acknowledged


TestAnySequence = AnySequence.TestCase
TestAnySequence.settings = settings(max_examples=30, stateful_step_count=15, deadline=None)
