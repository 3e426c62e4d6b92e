"""Workers are placed on GPUs as TorchServe places them, and only on those that are there."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from quart_trio import QuartTrio

from tests.archives import pack
from tests.registries import predict, registry
from wfserve.archive.pack import ModelArchiveOptions, pack_model
from wfserve.child.spec import WorkerSpec
from wfserve.errors import WorkflowError
from wfserve.http import models
from wfserve.registry import start
from wfserve.registry.placement import (
    PINNED_BYTES,
    Gpus,
    Placement,
    Seats,
    pinned_bytes,
    placed,
    placement_of,
)
from wfserve.registry.prepare import prepare

MODEL = WorkerSpec("w__m", "m.py", "/")
FUNCTION = WorkerSpec("w__f", "f.py:f", "/", is_function=True)
ALL = Placement((0, 1, 2, 3))
NONE = Placement()


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({}, ALL),
        ({"deviceType": "gpu"}, ALL),
        ({"deviceType": "GPU"}, ALL),
        ({"deviceType": ""}, ALL),
        ({"deviceType": "cpu"}, NONE),
        ({"deviceType": "CPU", "deviceIds": [1]}, NONE),
        ({"deviceIds": [3, 1, 3]}, Placement((3, 1, 3), own_turn=True)),
        ({"deviceType": "gpu", "deviceIds": [2]}, Placement((2,), own_turn=True)),
        ({"deviceIds": []}, ALL),
        ({"parallelLevel": 2}, ALL),
        ({"parallelType": "other", "parallelLevel": 2}, ALL),
        ({"parallelType": "tp", "parallelLevel": 0}, ALL),
        ({"parallelType": "tp", "parallelLevel": True}, ALL),
    ],
)
def test_what_a_model_asks_for(config, expected):
    assert placement_of(config, 4) == (expected, [])


@pytest.mark.parametrize("config", [{}, {"deviceType": "gpu"}, {"parallelType": "tp", "parallelLevel": 8}])
def test_without_gpus_there_is_no_placing(config):
    assert placement_of(config, 0) == (NONE, [])


@pytest.mark.parametrize(
    ("config", "remark"),
    [
        ({"deviceType": "tpu"}, "deviceType 'tpu' is ignored: it can be cpu or gpu"),
        ({"deviceType": 1}, "deviceType 1 is ignored"),
        ({"deviceType": ["gpu"]}, "deviceType ['gpu'] is ignored"),
        ({"deviceIds": [0, 4]}, "deviceIds [0, 4] are ignored: there is no GPU 4 among the 4"),
        ({"deviceIds": [-1]}, "there is no GPU -1"),
        ({"deviceIds": [0, "1"]}, "they have to be a list of whole numbers"),
        ({"deviceIds": [True]}, "they have to be a list of whole numbers"),
        ({"deviceIds": 0}, "deviceIds 0 are ignored"),
    ],
)
def test_what_cannot_be_is_ignored_and_told(config, remark):
    placement, (told,) = placement_of(config, 4)
    assert placement == ALL
    assert remark in told


def test_a_list_where_there_are_no_gpus_is_told():
    placement, (told,) = placement_of({"deviceIds": [0]}, 0)
    assert placement == NONE
    assert "there is no GPU 0" in told


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        ({"parallelLevel": 2}, (0, 2)),
        ({"parallelLevel": 3}, (0,)),
        ({"parallelLevel": 2, "deviceIds": [3, 2, 1]}, (3,)),
        ({"parallelLevel": 1, "torchrun": {"nproc-per-node": 4}}, (0,)),
        ({"torchrun": {}}, (0, 1, 2, 3)),
    ],
)
def test_one_that_wants_several_gpus_gets_the_first_of_as_many(config, expected):
    placement, (told,) = placement_of({"parallelType": "custom", **config}, 4)
    assert placement == Placement(expected, own_turn=True)
    assert "each worker is one process here" in told


def test_too_few_gpus_for_one_worker():
    with pytest.raises(ValueError, match="parallelLevel 5 needs as many GPUs, and there are 4"):
        placement_of({"parallelType": "pp", "parallelLevel": 5}, 4)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-3, 9)
    | st.text(max_size=4)
    | st.sampled_from(["gpu", "cpu", "tp"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
)
KEYS = st.sampled_from(["deviceType", "deviceIds", "parallelType", "parallelLevel", "torchrun"])


@given(st.dictionaries(KEYS, JUNK), st.integers(0, 5))
def test_only_gpus_that_are_there_are_taken(config, count):
    try:
        placement, remarks = placement_of(config, count)
    except ValueError:
        assert count
        return
    assert set(placement.gpus) <= set(range(count))
    assert all(isinstance(remark, str) for remark in remarks)


def test_models_that_go_anywhere_share_a_turn_that_begins_with_the_second_gpu():
    gpus = Gpus(3)
    first, second = (Seats(Placement((0, 1, 2)), gpus) for _ in range(2))
    assert [first.take(), first.take(), second.take(), first.take()] == [1, 2, 0, 1]


def test_models_with_a_list_have_a_turn_of_their_own_that_begins_with_its_first():
    gpus = Gpus(3)
    listed, other = Seats(Placement((2, 0), own_turn=True), gpus), Seats(Placement((0, 1, 2)), gpus)
    assert [listed.take(), listed.take(), other.take(), listed.take()] == [2, 0, 1, 2]


def test_one_on_the_cpu_takes_no_turn():
    gpus = Gpus(2)
    assert Seats(NONE, gpus).take() is None
    assert Seats(Placement((0, 1)), gpus).take() == 1


@pytest.mark.parametrize(
    ("chain_", "placements", "expected"),
    [
        ([FUNCTION], [ALL], [1]),
        ([FUNCTION, FUNCTION], [ALL, ALL], [1, 1]),
        ([FUNCTION, MODEL, FUNCTION], [ALL, Placement((3,), own_turn=True), ALL], [3, 3, 3]),
        ([FUNCTION, MODEL], [ALL, NONE], [None, None]),
        ([MODEL, MODEL], [ALL, ALL], [1, 1]),
        ([MODEL, FUNCTION, MODEL], [NONE, ALL, ALL], [None, None, 1]),
    ],
)
def test_nodes_that_share_a_worker(chain_, placements, expected):
    gpus = Gpus(4)
    told = placed(chain_, [Seats(placement, gpus) for placement in placements])
    assert [spec.gpu_id for spec in told] == expected
    assert [replace(spec, gpu_id=None) for spec in told] == chain_


@pytest.mark.parametrize(
    ("configured", "gpus", "expected"),
    [(None, 0, 0), (1 << 20, 0, 0), (None, 2, PINNED_BYTES), (0, 2, 0), (1 << 20, 1, 1 << 20)],
)
def test_how_large_the_pinned_segment_is(configured, gpus, expected):
    assert pinned_bytes(configured, gpus) == expected


def pack_models(store, **configs):
    """Pack models that say on which GPU they are."""
    (store / "handler.py").write_text(
        "def handle(data, context):\n"
        "    told = str(context.system_properties['gpu_id'])\n"
        "    return data and [f\"{bytes(r['body']).decode()} {told}\" for r in data]\n"
    )
    for name, config in configs.items():
        (store / "model-config.yaml").write_text(config)
        more = {"config_file": store / "model-config.yaml", "export_path": store, "force": True}
        pack_model(ModelArchiveOptions(name, str(store / "handler.py"), "1", **more))


class InStore:
    """The archives of `w.war` where they were packed."""

    def __init__(self, store):
        self.store = store

    async def workflow(self):
        return self.store / "w.war"

    async def model(self, spec):
        return self.store / spec.url


async def blueprint(config, store, directory, gpus):
    directory.mkdir()

    async def sharing(_path, opening):
        return await opening(directory)

    return await prepare("w.war", InStore(store), config, directory, gpus=gpus, sharing=sharing)


TWO = "models:\n  max-workers: 1\n  data-format: native\n  m: {url: m.mar}\n  n: {url: n.mar}\n"


async def test_what_blueprints_plan(config, store, tmp_path, caplog):
    pack_models(store, m="deviceIds: [1]", n="deviceIds: [7]")
    pack(store, "w", TWO + "dag:\n  m: [n]\n  n: [echo]\n")
    made = await blueprint(config, store, tmp_path / "made", Gpus(2))
    assert [made.nodes[node].seats.placement for node in made.graph.nodes] == [
        Placement((1,), own_turn=True),
        Placement((0, 1)),
        Placement((0, 1)),
    ]
    assert made.pins_bodies
    assert made.stage(["m"]).pins_results  # n copies them to its GPU
    assert not made.stage(["n"]).pins_results  # its reader is a function
    assert "w__n: deviceIds [7] are ignored" in caplog.text


@pytest.mark.parametrize(
    ("settings", "device", "pins"),
    [
        ("data-format: native", "gpu", True),
        ("data-format: native", "cpu", False),
        ("data-format: bytes", "gpu", False),
        ("{data-format: native, copy-inputs: true}", "gpu", False),
    ],
)
async def test_what_a_gpu_does_not_copy_straight_is_not_pinned(
    config, store, tmp_path, settings, device, pins
):
    pack_models(store, m=f"deviceType: {device}")
    inner = settings.strip("{}")
    pack(store, "w", f"models:\n  m: {{url: m.mar, {inner}}}\ndag:\n  echo: [m]\n  m: [upper]\n")
    made = await blueprint(config, store, tmp_path / "made", Gpus(2))
    assert made.nodes["m"].copies_to_gpu == pins
    assert made.stage(["echo"]).pins_results == pins
    assert made.stage(["echo", "m", "upper"]).pins_results == pins
    assert not made.stage(["m", "upper"]).pins_results
    assert not made.pins_bodies


async def test_results_with_several_readers_are_not_pinned(config, store, tmp_path):
    pack_models(store, m="{}", n="{}")
    pack(store, "w", TWO + "dag:\n  echo: [m, n]\n")
    made = await blueprint(config, store, tmp_path / "made", Gpus(2))
    assert not made.stage(["echo"]).pins_results


@pytest.fixture
def two_gpus(monkeypatch):
    """Have workflows prepared as on a machine with two GPUs."""
    gpus = Gpus(2)

    async def on_two(*args, **more):
        return await prepare(*args, **{**more, "gpus": gpus})

    monkeypatch.setattr(start, "prepare", on_two)


@pytest.mark.usefixtures("two_gpus")
async def test_workers_are_told_where_they_are(config, store):
    pack_models(store, m="deviceIds: [1]", n="deviceType: cpu")
    pack(store, "w", "models:\n  max-workers: 1\n  m: {url: m.mar}\n  n: {url: n.mar}\ndag:\n  m: [n]\n")
    async with registry(config) as opened:
        workflow = await opened.register("w.war")
        assert await predict(workflow, b"x", opened) == "x 1 None"


@pytest.mark.usefixtures("two_gpus")
async def test_a_node_that_is_scaled_goes_on_with_its_turn(config, store):
    pack_models(store, m="deviceIds: [1, 0]")
    pack(store, "w", "models:\n  max-workers: 1\n  m: {url: m.mar}\ndag:\n  echo: [m]\n")
    async with registry(config) as opened:
        workflow = await opened.register("w.war")
        assert await predict(workflow, b"x", opened) == "x 1"
        workflow.resize("m", 2, 2)  # it leaves the stage that it shares, and takes the next two turns
        await workflow.scaled("m")
        assert workflow.blueprint.nodes["m"].seats.take() == 0  # the fourth


@pytest.mark.usefixtures("two_gpus")
async def test_nodes_that_share_workers_share_their_gpus(config, store):
    pack_models(store, m="deviceIds: [1, 0]")
    for name in ("a", "b"):
        pack(store, name, "models:\n  max-workers: 1\n  m: {url: m.mar, share: on}\ndag:\n  m: []\n")
    async with registry(config) as opened:
        a, b = await opened.register("a.war"), await opened.register("b.war")
        assert [await predict(each, b"x", opened) for each in (a, b)] == ["x 1", "x 1"]
        assert a.sharing("m") == ["b__m"]


@pytest.mark.usefixtures("two_gpus")
async def test_the_management_api_says_who_is_on_a_gpu(config, store):
    pack_models(store, m="{}", n="deviceType: cpu")
    pack(store, "w", "models:\n  max-workers: 1\n  m: {url: m.mar}\n  n: {url: n.mar}\ndag:\n  m: [n]\n")
    async with registry(config) as opened:
        await opened.register("w.war")
        app = QuartTrio("test", static_folder=None)
        app.register_blueprint(models.blueprint(opened))
        for name, device in {"w__m": "gpu", "w__n": "cpu"}.items():
            (described,) = await (await app.test_client().get(f"/models/{name}")).get_json()
            (worker,) = described["workers"]
            assert (described["deviceType"], worker["gpu"]) == (device, device == "gpu")


async def test_too_few_gpus_fail_the_workflow(config, store, tmp_path):
    pack_models(store, m="parallelType: tp\nparallelLevel: 3", n="{}")
    pack(store, "w", TWO + "dag:\n  m: [n]\n")
    with pytest.raises(WorkflowError, match=r"w__m failed to register. Details: parallelLevel 3 needs"):
        await blueprint(config, store, tmp_path / "made", Gpus(2))
