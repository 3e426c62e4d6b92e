"""A workflow that contradicts itself cannot be made, and a change that would make one is refused."""

import math

import pytest

from wfserve.archive.spec import NodeSettings
from wfserve.errors import BadRequestError, ConflictError, InvalidVersionError, ModelVersionNotFoundError
from wfserve.state.records import Content, LiveSettings, Traffic, Version, Workflow

ARCHIVE = Content("0" * 64, 10)
V1, V2, V3 = (Version(version, ARCHIVE, "w.war") for version in ("1.0", "2.0", "3.0"))
BOTH = Workflow("w", "1.0", (V1, V2))
NO_SUCH_VERSION = "Workflow version: 3.0 does not exist for workflow: w"


def test_a_further_version_is_default_only_if_asked():
    assert BOTH.with_version(V3) == Workflow("w", "1.0", (V1, V2, V3))
    assert BOTH.with_version(V3, default=True) == Workflow("w", "3.0", (V1, V2, V3), previous="1.0")


def test_a_version_that_there_is():
    with pytest.raises(ConflictError, match=r"version 2\.0 is already registered for workflow w"):
        BOTH.with_version(V2)


def test_versions_are_removed_but_the_default_of_several():
    with pytest.raises(InvalidVersionError, match="Cannot remove default version for workflow w") as refused:
        BOTH.without_version("1.0")
    assert (refused.value.code, refused.value.type) == (403, "InvalidModelVersionException")
    left = BOTH.without_version("2.0")
    assert left == Workflow("w", "1.0", (V1,))
    assert left.without_version("1.0") is None


def test_a_version_that_gets_traffic_stays():
    for traffic in (Traffic({"1.0": 9, "2.0": 1}), Traffic(shadow="2.0")):
        with pytest.raises(ConflictError, match="gets traffic"):
            BOTH.with_traffic(traffic).without_version("2.0")


def test_a_new_default_ends_the_split_and_remembers_the_old_one():
    split = BOTH.with_traffic(Traffic({"1.0": 9, "2.0": 1}))
    after = split.with_default("2.0")
    assert after == Workflow("w", "2.0", (V1, V2), previous="1.0")
    assert after.with_default("2.0") == after
    assert after.with_default(after.previous) == Workflow("w", "1.0", (V1, V2), previous="2.0")
    assert after.without_version("1.0").previous is None


@pytest.mark.parametrize(
    "change",
    [
        lambda: BOTH.version("3.0"),
        lambda: BOTH.without_version("3.0"),
        lambda: BOTH.with_default("3.0"),
        lambda: BOTH.with_settings("3.0", {}),
        lambda: BOTH.with_traffic(Traffic({"3.0": 1})),
        lambda: BOTH.with_traffic(Traffic(shadow="3.0")),
        lambda: Workflow("w", "3.0", (V1, V2)),
        lambda: Workflow("w", "1.0", (V1, V2), previous="3.0"),
    ],
)
def test_a_version_that_there_is_not(change):
    with pytest.raises(ModelVersionNotFoundError, match=NO_SUCH_VERSION):
        change()


@pytest.mark.parametrize(
    "make",
    [
        lambda: Workflow("a/b", "1.0", (V1,)),
        lambda: Workflow("w", "1.0", (V1, V1)),
        lambda: BOTH.with_traffic(Traffic(shadow="1.0")),
        lambda: Version("v1", ARCHIVE, "w.war"),
        lambda: Version("1.0", ARCHIVE, "w\udcff.war"),
        lambda: Version("1.0", ARCHIVE, "w.war", startup_timeout=0),
        lambda: Version("1.0", ARCHIVE, "w.war", response_timeout=math.nan),
        lambda: Content("0" * 63, 1),
        lambda: Content("A" * 64, 1),
        lambda: Content("0" * 64, -1),
        lambda: Content("0" * 64, 1 << 63),
        lambda: Traffic({"1.0": 0}),
        lambda: Traffic({"1.0": -1}),
        lambda: Traffic({"1.0": math.nan}),
        lambda: Traffic({"1.0": math.inf}),
        lambda: Traffic({"1.0": 1}, shadow="1.0"),
        lambda: Traffic(sticky_header=""),
        lambda: Traffic(sticky_header="x y"),
        lambda: Traffic(sticky_header="X-User"),
        lambda: Traffic(sticky_header="x" * 257),
        lambda: LiveSettings(batch_size=0),
        lambda: LiveSettings(timeout_ms=0),
        lambda: LiveSettings(max_workers=1025),
        lambda: LiveSettings(retry_attempts=-1),
        lambda: LiveSettings(max_batch_delay_ms=1 << 31),
        lambda: LiveSettings(min_workers=2, max_workers=1),
    ],
)
def test_what_cannot_be(make):
    with pytest.raises(BadRequestError):
        make()


def test_the_default_may_be_the_shadow_of_another_that_answers():
    assert BOTH.with_traffic(Traffic({"2.0": 1}, "x-user", "1.0")).traffic.shadow == "1.0"


def test_settings_lie_over_earlier_ones_and_those_of_the_archive():
    once = BOTH.with_settings("2.0", {"m": LiveSettings(max_workers=4), "n": LiveSettings(timeout_ms=5)})
    twice = once.with_settings("2.0", {"m": LiveSettings(min_workers=2, batch_size=8)})
    assert twice.version("1.0") == V1
    settings = twice.version("2.0").settings
    assert settings == {
        "m": LiveSettings(min_workers=2, max_workers=4, batch_size=8),
        "n": LiveSettings(timeout_ms=5),
    }
    changed = settings["m"].applied(NodeSettings(retry_attempts=7))
    assert changed == NodeSettings(min_workers=2, max_workers=4, batch_size=8, retry_attempts=7)


def test_settings_that_cross_those_below():
    for workers in (LiveSettings(min_workers=5), LiveSettings(max_workers=0)):
        with pytest.raises(BadRequestError, match="is more than max_workers"):
            workers.applied(NodeSettings(min_workers=1, max_workers=4))
    with pytest.raises(BadRequestError, match="min_workers 5 is more than max_workers 4"):
        LiveSettings(min_workers=5).over(LiveSettings(max_workers=4))
