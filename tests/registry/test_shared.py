"""Nodes that say `share: on` have one set of workers, and each behaves as if it had its own."""

import json
import os
import random
import signal

import orjson
import pytest
import trio

from tests.archives import pack, pack_handler
from tests.pools import workers
from tests.registries import left_in, predict, registry, until
from tests.support import payload, text
from wfserve.archive import mar
from wfserve.child.spec import WorkerSpec
from wfserve.dag.walk import Request
from wfserve.errors import InternalError, ServiceUnavailableError, WorkflowError
from wfserve.registry import prepare
from wfserve.registry.stageplan import StagePlan
from wfserve.registry.startup import load
from wfserve.scheduling.settings import StageSettings
from wfserve.state.records import LiveSettings

# It does what a word says, and remembers by which names it was called, or loaded.
HANDLER = """
import json, os, signal, time

LOADED = []
CALLED = set()

def handle(data, context):
    if data is None:
        LOADED.append(context.model_name)
        while os.path.exists("GATE"):
            time.sleep(0.01)
        if os.path.exists("BROKEN"):
            raise KeyError("it does not load")
        return None
    CALLED.add(context.model_name)
    if not data[0]:
        return [{"described": context.model_name}]
    context.metrics.add_counter("words", len(data))
    words = [bytes(row["body"]).decode() for row in data]
    return [answer(word, words, context.model_name) for word in words]

def answer(word, words, name):
    if word == "name":
        return name
    elif word == "sleep":
        time.sleep(0.3)
    elif word == "wait":
        while os.path.exists("GATE"):
            time.sleep(0.01)
    elif word == "hang":
        time.sleep(3600)
    elif word == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    elif word == "raise":
        raise ValueError(word)
    elif word == "names":
        return json.dumps([LOADED, sorted(CALLED)])
    elif word == "batch":
        return json.dumps(words)
    elif word == "pid":
        return str(os.getpid())
    return word
"""
SPEC = "models:\n  m: {{url: m.mar, share: on{}}}\ndag:\n  m: []\n"


@pytest.fixture
def at(store, tmp_path):
    """A store with workflows that share a model: `a`, `b`, `behind`, where it has a parent and a child."""
    code = HANDLER
    for word in ("GATE", "BROKEN"):
        code = code.replace(f'"{word}"', repr(str(tmp_path / word)))
    pack_handler(store, "m", code)
    for name in ("a", "b"):
        pack(store, name, SPEC.format(""))
    pack(store, "behind", "models:\n  m: {url: m.mar, share: on}\ndag:\n  echo: [m]\n  m: [upper]\n")
    return tmp_path


def users(opened):
    return sum(len(each.users) for each in opened._starter._lines._sets)


async def pid_of(opened, workflow):
    return int(await predict(workflow, b"pid", opened))


async def call(opened, workflow, body, **headers):
    request = Request(
        payload(opened._transport, orjson.dumps(list(headers.items()))), payload(opened._transport, body)
    )
    done = await workflow.call_node("m", request)
    try:
        return text(done.payload)
    finally:
        done.payload.release()


async def test_equal_nodes_have_one_set_of_workers(config, at):
    async with registry(config) as opened:
        a = await opened.register("a.war")
        assert (len(workers()), a.sharing("m")) == (1, [])
        b = await opened.register("b.war")
        behind = await opened.register("behind.war")
        assert len(workers()) == 3  # with those of echo and upper
        assert a.sharing("m") == ["b__m", "behind__m"]
        assert behind.sharing("echo") is None
        pid = await pid_of(opened, a)
        assert {await pid_of(opened, each) for each in (b, behind)} == {pid}
        await opened.unregister("a")
        assert (await pid_of(opened, b), b.sharing("m")) == (pid, ["behind__m"])
        await opened.unregister("behind")
        assert len(workers()) == 1
        await opened.unregister("b")
        assert (workers(), left_in(config)) == (set(), [])


@pytest.mark.parametrize(
    ("model", "settings"),
    [
        ("m", ", share: off"),
        ("m", ", batch-size: 2"),
        ("m", ", timeout-ms: 700"),
        ("m", ", copy-inputs: on"),
        ("other", ""),
    ],
)
async def test_what_differs_is_not_shared(config, store, at, model, settings):
    pack_handler(store, "other", HANDLER + "\n")
    pack(store, "c", SPEC.format(settings).replace("m.mar", f"{model}.mar"))
    async with registry(config) as opened:
        a, c = await opened.register("a.war"), await opened.register("c.war")
        assert a.sharing("m") == []
        assert c.sharing("m") == (None if "off" in settings else [])
        assert await pid_of(opened, a) != await pid_of(opened, c)


async def test_equal_nodes_of_one_workflow(config, store, at):
    models = "\n".join(f"  {node}: {{url: m.mar, share: on}}" for node in ("m", "n"))
    pack(store, "c", f"models:\n{models}\ndag:\n  m: [n]\n")
    async with registry(config) as opened:
        c = await opened.register("c.war")
        assert (len(workers()), c.sharing("m"), c.sharing("n")) == (1, ["c__n"], ["c__m"])
        assert await predict(c, b"x", opened) == "x"
        assert json.loads(await predict(c, b"names", opened))[1] == ["c__m", "c__n"]


async def test_archives_are_told_by_content(config, store, at):
    (store / "same.mar").write_bytes((store / "m.mar").read_bytes())
    pack(store, "c", SPEC.format("").replace("m.mar", "same.mar"))
    async with registry(config) as opened:
        await opened.register("a.war")
        assert (await opened.register("c.war")).sharing("m") == ["a__m"]


async def test_the_context_is_the_callers(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        assert await predict(a, b"x", opened) == "x"
        assert json.loads(await predict(b, b"names", opened)) == [["m"], ["a__m", "b__m"]]
        assert await call(opened, a, b"direct") == "direct"
        assert json.loads(await call(opened, b, b"", describe="True")) == {"described": "b__m"}
        for workflow, words in ((a, 2), (b, 1)):
            stage = workflow.route.stages["m"]
            assert stage.statistics().attempts == words + (workflow is b)
            (metric,) = stage.measured().recorded
            assert [(each.labels.text, each.value) for each in metric.series.values()] == [
                (f'Hostname="{os.uname().nodename}",Level="Model",ModelName="{workflow.name}__m"', words)
            ]


async def test_no_batch_is_of_two_nodes(config, store, at):
    for name in ("x", "y"):
        pack(store, name, SPEC.format(", batch-size: 8"))
    async with registry(config) as opened:
        x, y = await opened.register("x.war"), await opened.register("y.war")
        batches = {}

        async def ask(workflow, number):
            batches[workflow.name, number] = json.loads(await predict(workflow, b"batch", opened))

        async with trio.open_nursery() as nursery:
            (at / "GATE").touch()
            nursery.start_soon(predict, x, b"wait", opened)
            await until(lambda: x.route.stages["m"].statistics().running)
            for number, workflow in enumerate((x, y, x, y, y)):
                nursery.start_soon(ask, workflow, number)
            await until(lambda: [w.route.stages["m"].statistics().queued for w in (x, y)] == [2, 3])
            (at / "GATE").unlink()
        found = {key: len(words) for key, words in batches.items()}
        assert found == {("x", 0): 2, ("x", 2): 2, ("y", 1): 3, ("y", 3): 3, ("y", 4): 3}


async def test_a_change_moves_one_node_and_back(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        pid = await pid_of(opened, a)
        for changed, back in (
            ({"timeout_ms": 5000}, {"timeout_ms": 10_000}),
            ({"batch_size": 4}, {"batch_size": 1}),
        ):
            await opened.change("a", None, {"m": LiveSettings(**changed)})
            assert await pid_of(opened, a) != pid
            assert (await pid_of(opened, b), b.sharing("m")) == (pid, [])
            await opened.change("a", None, {"m": LiveSettings(**back)})
            assert (await pid_of(opened, a), b.sharing("m")) == (pid, ["a__m"])
            await until(lambda: len(workers()) == 1)
        assert a.route.stages["m"].statistics().attempts == 5


async def test_a_change_of_the_only_one_moves_nobody(config, store, at):
    pack(store, "c", SPEC.format(", timeout-ms: 5000"))
    async with registry(config) as opened:
        a = await opened.register("a.war")
        pid = await pid_of(opened, a)
        await opened.change("a", None, {"m": LiveSettings(timeout_ms=5000)})
        assert a.route.stages["m"].steps[0].timeout == 5.0
        await opened.scale("a__m", None, 1, 2)
        await opened.scale("a__m", None, 1, 1)
        await a.scaled("m")
        c = await opened.register("c.war")
        b = await opened.register("b.war")
        assert (c.sharing("m"), b.sharing("m")) == (["a__m"], [])
        assert await pid_of(opened, a) == await pid_of(opened, c) == pid
        await opened.change("b", None, {"m": LiveSettings(timeout_ms=5000)})  # there is a set like that
        assert a.sharing("m") == ["b__m", "c__m"]
        await until(lambda: workers() == {pid})


async def test_who_comes_while_a_change_waits_for_other_workers(config, store, at):
    pack(store, "c", "models:\n  m: {url: m.mar, share: on}\n  n: {url: m.mar}\ndag:\n  m: [n]\n")
    async with registry(config) as opened:
        c = await opened.register("c.war")
        (at / "GATE").touch()
        changed = {"m": LiveSettings(timeout_ms=5000), "n": LiveSettings(batch_size=2)}
        async with trio.open_nursery() as nursery:
            before = workers()
            nursery.start_soon(opened.change, "c", None, changed)
            await until(lambda: workers() > before)
            a = await opened.register("a.war")
            assert a.sharing("m") == ["c__m"]
            (at / "GATE").unlink()
        assert (a.sharing("m"), c.sharing("m")) == ([], [])
        assert a.route.stages["m"].settings.timeout == 10.0
        assert await predict(c, b"x", opened) == await predict(a, b"x", opened) == "x"


async def test_nodes_that_become_equal_have_one_set_of_workers(config, store, at):
    nodes = "  m: {url: m.mar, share: on, timeout-ms: 700}\n  n: {url: m.mar, share: on, timeout-ms: 800}\n"
    pack(store, "c", f"models:\n{nodes}dag:\n  m: [n]\n")
    async with registry(config) as opened:
        c = await opened.register("c.war")
        assert (len(workers()), c.sharing("m")) == (2, [])
        await opened.change("c", None, dict.fromkeys("mn", LiveSettings(timeout_ms=5000)))
        assert (c.sharing("m"), c.sharing("n")) == (["c__n"], ["c__m"])
        await until(lambda: len(workers()) == 1)
        pid = await pid_of(opened, c)
        await opened.change("c", None, dict.fromkeys("mn", LiveSettings(timeout_ms=5000)))
        assert (await pid_of(opened, c), c.sharing("m")) == (pid, ["c__n"])


async def test_who_comes_back_before_its_last_request_has_ended_is_listed_once(config, at):
    async with registry(config) as opened, trio.open_nursery() as nursery:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        nursery.start_soon(predict, a, b"sleep", opened)
        await until(lambda: a.route.stages["m"].statistics().running)
        for seconds in (5, 10):
            await opened.change("a", None, {"m": LiveSettings(timeout_ms=1000 * seconds)})
        assert (a.in_flight, users(opened)) == (1, 3)
        assert (a.sharing("m"), b.sharing("m")) == (["b__m"], ["a__m"])
        await opened.unregister("b")
        await opened.change("a", None, {"m": LiveSettings(timeout_ms=5000)})
        assert (a.in_flight, len(workers())) == (1, 2)  # the request keeps its stage as it was


async def test_scaling_moves_one_node_and_back(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        pid = await pid_of(opened, a)
        for bounds, own in (((2, 2), 2), ((0, 0), 0)):
            await opened.scale("a__m", None, *bounds)
            await a.scaled("m")
            assert (len(workers()), b.sharing("m")) == (1 + own, [])
            assert await pid_of(opened, b) == pid
            await opened.scale("a__m", None, 1, 1)
            await a.scaled("m")
            assert (workers(), await pid_of(opened, a)) == ({pid}, pid)


async def test_the_last_of_two_scalings_counts_while_the_first_loads_workers(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        (at / "GATE").touch()
        await opened.scale("a__m", None, 2, 2)
        await until(lambda: users(opened) == 3)
        await opened.scale("a__m", None, 1, 1)
        (at / "GATE").unlink()
        await a.scaled("m")
        assert (a.sharing("m"), b.sharing("m"), len(workers())) == (["b__m"], ["a__m"], 1)


async def test_who_waits_for_a_scaling_is_told_of_the_workers_that_the_node_has_in_the_end(config, store, at):
    pack(store, "c", SPEC.format(", timeout-ms: 5000"))
    async with registry(config) as opened:
        a, _ = await opened.register("a.war"), await opened.register("c.war")
        (at / "GATE").touch()
        await opened.scale("a__m", None, 2, 2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(a.scaled, "m")
            await until(lambda: len(workers()) == 3)
            await opened.change("a", None, {"m": LiveSettings(1, 1, timeout_ms=5000)})
        assert a.sharing("m") == ["c__m"]
        await until(lambda: len(workers()) == 1)  # those that it had leave by themselves


async def test_a_move_that_fails_changes_nothing(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        pid, before = await pid_of(opened, a), a.blueprint
        (at / "BROKEN").touch()
        with pytest.raises(InternalError, match="Failed to start workers for model a__m"):
            await opened.change("a", None, {"m": LiveSettings(batch_size=4)})
        await opened.scale("a__m", None, 2, 2)
        with pytest.raises(InternalError, match="Failed to start workers for model a__m"):
            await a.scaled("m")
        assert (a.blueprint, await pid_of(opened, a), b.sharing("m")) == (before, pid, ["a__m"])
        assert workers() == {pid}


async def test_a_version_begins_with_the_workers_of_another(config, at):
    async with registry(config) as opened:
        old = await opened.register("a.war", "w", "1.0")
        pid = await pid_of(opened, old)
        (at / "BROKEN").touch()  # nothing that loads would
        new = await opened.register("b.war", "w", "2.0", replace=True)
        await until(lambda: old.gone.is_set())
        assert (await pid_of(opened, new), new.sharing("m")) == (pid, [])
        newest = await opened.register("a.war", "w", "3.0")
        assert (new.sharing("m"), newest.sharing("m")) == (["w__m/3.0"], ["w__m/2.0"])
        assert await predict(newest, b"x", opened) == "x"
        counts = [each.route.stages["m"].statistics().attempts for each in (new, newest)]
        assert counts == [1, 1]


async def test_a_worker_that_dies_is_replaced_for_all(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        os.kill(await pid_of(opened, a), signal.SIGKILL)
        assert await pid_of(opened, a) == await pid_of(opened, b)
        with pytest.raises(InternalError, match="Error executing m"):
            await predict(a, b"die", opened)
        assert await predict(b, b"x", opened) == "x"
        assert b.route.stages["m"].statistics().attempts == 2
        with pytest.raises(InternalError, match="Error executing m"):
            await predict(b, b"raise", opened)
        assert b.route.stages["m"].statistics().retries == 1


async def test_what_hangs_is_stopped_and_the_others_wait_for_the_next_worker(config, store, at):
    for name in ("x", "y"):
        pack(store, name, SPEC.format(", timeout-ms: 500, retry-attempts: 0"))
    async with registry(config) as opened:
        x, y = await opened.register("x.war"), await opened.register("y.war")
        failures = []

        async def hang():
            with pytest.raises(InternalError, match="Error executing m") as caught:
                await predict(x, b"hang", opened)
            failures.append(caught.value)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(hang)
            await until(lambda: x.route.stages["m"].statistics().running)
            assert y.route.stages["m"].statistics().running == 0
        assert len(failures) == 1
        assert await predict(y, b"x", opened) == "x"


async def test_who_leaves_takes_only_its_own_requests_along(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        answers = []

        async def ask(workflow, body):
            answers.append((workflow.name, await predict(workflow, body, opened)))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(ask, a, b"sleep")
            await until(lambda: a.route.stages["m"].statistics().running)
            nursery.start_soon(ask, b, b"b")
            nursery.start_soon(opened.unregister, "a")
        assert sorted(answers) == [("a", "sleep"), ("b", "b")]


async def test_who_leaves_while_its_abandoned_batch_runs(config, at):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        async with trio.open_nursery() as client:
            client.start_soon(predict, a, b"sleep", opened)
            await until(lambda: a.route.stages["m"].statistics().running)
            client.cancel_scope.cancel()
        await opened.unregister("a")
        assert await predict(b, b"x", opened) == "x"


class Defective:
    """A pool, but for a defect."""

    def __init__(self, pool):
        self._pool = pool

    def __getattr__(self, name):
        return getattr(self._pool, name)

    def submit(self, items, behind=None):
        raise RuntimeError("a defect")


async def test_a_line_that_fails_ends_who_uses_it_and_nobody_else(config, store, at, caplog):
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        other = await opened.register("echo.war")
        stage = opened._starter._lines._sets[0].line.stage
        stage.pool = Defective(stage.pool)
        for workflow in (a, b):
            with pytest.raises(ServiceUnavailableError, match="is being unregistered"):
                await predict(workflow, b"x", opened)
            await workflow.gone.wait()
        assert await predict(other, b"x", opened) == "x"
        assert "the shared workers of m have failed" in caplog.text
        assert await predict(await opened.register("b.war", "c"), b"x", opened) == "x"


@pytest.mark.parametrize(
    ("manifest", "name"),
    [
        (None, "shared"),
        ({"model": {"modelName": "resnet"}}, "resnet"),
        ({"model": {"modelName": "a\nb"}}, "shared"),
    ],
)
def test_workers_have_the_models_own_name(manifest, name):
    worker = WorkerSpec("w__m", "m.py", "/m", manifest=manifest, parents=("a",), leaf=True)
    plan = StagePlan(("m",), (worker,), StageSettings("w__m"), (), pins_results=False, shared=True).common()
    assert (plan.nodes, plan.settings.name) == ((name,), name)
    assert plan.chain == (WorkerSpec(name, "m.py", "/m", manifest=manifest),)


async def test_a_registration_that_fails_leaves_the_others_alone(config, store, at):
    pack_handler(store, "bad", "def handle(data, context):\n    raise KeyError('bad')\n")
    pack(store, "c", "models:\n  m: {url: m.mar, share: on}\n  bad: {url: bad.mar}\ndag:\n  m: [bad]\n")
    async with registry(config) as opened:
        with pytest.raises(WorkflowError, match="Failed to start workers for model c__bad"):
            await opened.register("c.war")
        assert (workers(), left_in(config)) == (set(), [])
        a = await opened.register("a.war")
        pid = await pid_of(opened, a)
        with pytest.raises(WorkflowError, match="Failed to start workers for model c__bad"):
            await opened.register("c.war")
        assert (await pid_of(opened, a), a.sharing("m"), workers()) == (pid, [], {pid})


async def test_all_who_wait_for_workers_are_told_that_they_do_not_load(config, at):
    (at / "BROKEN").touch()
    (at / "GATE").touch()
    async with registry(config) as opened:
        failures = []

        async def register(name):
            with pytest.raises(WorkflowError, match=f"Failed to start workers for model {name}__m"):
                await opened.register(f"{name}.war")
            failures.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(register, "a")
            nursery.start_soon(register, "b")
            await until(lambda: users(opened) == 2)
            (at / "GATE").unlink()
        assert sorted(failures) == ["a", "b"]
        (at / "BROKEN").unlink()
        await opened.register("a.war")


async def test_who_comes_second_does_not_depend_on_who_was_first(config, at, monkeypatch):
    unpacked = []
    monkeypatch.setattr(
        prepare, "open_model", lambda *given: unpacked.append(given) or mar.open_model(*given)
    )
    (at / "GATE").touch()
    async with registry(config) as opened, trio.open_nursery() as nursery:
        first = trio.CancelScope()

        async def give_up():
            with first:
                await opened.register("a.war")

        nursery.start_soon(give_up)
        await until(workers)
        nursery.start_soon(opened.register, "b.war")
        await until(lambda: users(opened) == 2)
        before = workers()
        first.cancel()
        await until(lambda: len(left_in(config)) == 2)
        (at / "GATE").unlink()
        await until(lambda: list(opened))
        assert workers() == before
        assert len(unpacked) == 1
        assert await predict(opened.lookup("b"), b"x", opened) == "x"


async def test_an_archive_that_the_first_did_not_unpack_is_unpacked_by_the_next(config, at, monkeypatch):
    calls = []

    def full_at_first(*given):
        calls.append(given)
        if len(calls) == 1:
            raise OSError(28, "No space left on device")
        return mar.open_model(*given)

    monkeypatch.setattr(prepare, "open_model", full_at_first)
    async with registry(config) as opened:
        outcomes = []

        async def register(name):
            try:
                await opened.register(f"{name}.war")
            except* OSError:
                outcomes.append(name)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(register, "a")
            nursery.start_soon(register, "b")
        assert len(outcomes) == len(list(opened)) == 1
        assert len(calls) == 2
        assert len(left_in(config)) == 2


@pytest.mark.parametrize("seed", [1, 2])
async def test_whatever_others_do_requests_are_answered(config, at, seed):
    chance = random.Random(seed)

    async def ask(opened, workflow, name, answered):
        while True:
            assert await predict(workflow, b"name", opened) == f"{name}__m"
            answered[name] = answered.get(name, 0) + 1

    async def change(opened, name):
        registered = False
        for _ in range(12):
            if not registered:
                await opened.register("b.war", name)
            elif chance.random() < 0.3:
                await opened.unregister(name)
            elif chance.random() < 0.5:
                settings = LiveSettings(
                    timeout_ms=chance.choice([5000, 10_000]), batch_size=chance.choice([1, 4])
                )
                await opened.change(name, None, {"m": settings})
            else:
                await opened.scale(f"{name}__m", None, 1, chance.choice([1, 2]))
                await opened.lookup(name).scaled("m")
            registered = any(each.name == name for each in opened.names)
            if registered:
                assert await predict(opened.lookup(name), b"name", opened) == f"{name}__m"

    async with registry(config) as opened, trio.open_nursery() as steady:
        answered = {}
        steady.start_soon(ask, opened, await opened.register("a.war"), "a", answered)
        async with trio.open_nursery() as nursery:
            for name in ("x", "y", "z"):
                nursery.start_soon(change, opened, name)
        before = dict(answered)
        await until(lambda: answered["a"] > before["a"])
        steady.cancel_scope.cancel()


async def test_a_restart_shares_again(config, at):
    async with registry(config) as opened:
        await opened.register("a.war")
        await opened.register("behind.war")
        await opened.change("behind", None, {"m": LiveSettings(timeout_ms=5000)})
        await opened.register("b.war")
    async with registry(config) as opened:
        load(opened)
        await opened.loaded()
        assert opened.healthy()
        assert opened.lookup("a").sharing("m") == ["b__m"]
        assert opened.lookup("behind").sharing("m") == []
        assert await pid_of(opened, opened.lookup("a")) == await pid_of(opened, opened.lookup("b"))
