"""A worker that runs a chain of nodes does for each what a worker of its own would do."""

from __future__ import annotations

import os
import sys
from typing import TYPE_CHECKING, Any

import pytest

from wfserve.child.home import Home, Left
from wfserve.child.main import following_id
from wfserve.child.spec import WorkerSpec
from wfserve.child.surroundings import homes_of
from wfserve.transport import progress
from wfserve.transport.base import MessageKind
from wfserve.transport.frame import Kind
from wfserve.transport.message import Fault, decode_passed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    Make = Callable[..., WorkerSpec]

STEP = """
    def handle(data, context):
        if data is None:
            return None
        body = bytes(data[0]["body"])
        if body == b"fail at " + context.model_name.encode():
            raise ValueError(body)
        return [body + context.model_name.encode() if not body.startswith(b"fail") else body]
"""
WHERE = """
    import json, os, sys
    import shared
    shared.count += 1
    def handle(data, context):
        if data is None:
            return None
        shared.count += 1
        import late
        return [json.dumps([shared.NAME, late.NAME, shared.count, os.getcwd(), os.environ["PYTHONPATH"]])]
"""


@pytest.fixture(autouse=True)
def _process_as_it_was() -> Iterator[None]:
    before = os.getcwd(), list(sys.path), os.environ.get("PYTHONPATH"), dict(sys.modules)
    yield
    os.chdir(before[0])
    sys.path[:] = before[1]
    os.environ.pop("PYTHONPATH", None)
    if before[2] is not None:
        os.environ["PYTHONPATH"] = before[2]
    for name in set(sys.modules) - set(before[3]):
        del sys.modules[name]


def steps(archive: Make, *names: str, code: str = STEP, **fields: Any) -> list[WorkerSpec]:
    return [
        archive(
            code,
            name=name,
            is_function=True,
            parents=names[position - 1 : position],
            leaf=position == len(names) - 1,
            **fields,
        )
        for position, name in enumerate(names)
    ]


def test_each_step_reads_what_the_one_before_wrote(server: Any, archive: Make) -> None:
    items = [server.item(server.put(word)) for word in (b"1", b"2")]
    _, done = server.run(steps(archive, "a", "b", "c"), server.call(1, *items, last=2))
    assert [got.data for got in server.results(done)] == [b"1abc", b"2abc"]
    assert [ran.items for ran in server.reply(done).ran] == [2, 2, 2]


def test_a_part_of_the_chain(server: Any, archive: Make) -> None:
    _, done = server.run(
        steps(archive, "a", "b", "c"), server.call(1, server.item(server.put(b"x")), first=1, last=1)
    )
    assert [got.data for got in server.results(done)] == [b"xb"]
    assert len(server.reply(done).ran) == 1


def test_what_fails_says_where_and_leaves_its_input(server: Any, archive: Make) -> None:
    words = (b"fail at a", b"fail at b", b"fail at c", b"fine")
    items = [server.item(server.put(word)) for word in words]
    _, done = server.run(steps(archive, "a", "b", "c"), server.call(1, *items, last=2))
    *failed, fine = server.reply(done).results
    assert [fault.step for fault in failed] == [0, 1, 2]
    assert failed[0].reached is None
    for fault, word in zip(failed[1:], words[1:], strict=False):
        assert bytes(server.transport.arena.view(fault.reached.descriptor)) == word
    assert server.got(fine).data == b"fineabc"
    assert [ran.items for ran in server.reply(done).ran] == [4, 3, 2]


def test_a_step_that_nothing_reaches_does_not_run(server: Any, archive: Make) -> None:
    _, done = server.run(
        steps(archive, "a", "b"), server.call(1, server.item(server.put(b"fail at a")), last=1)
    )
    assert len(server.reply(done).ran) == 1


def test_a_model_behind_a_function_gets_all_that_reached_it_in_one_call(server: Any, archive: Make) -> None:
    model = """
        def handle(data, context):
            return data and [f"{len(data)} {context.get_request_id(i)}" for i in range(len(data))]
    """
    chain = [*steps(archive, "a"), archive(model, name="m", parents=("a",), leaf=True, batch_size=8)]
    items = [server.item(server.put(word)) for word in (b"1", b"fail at a", b"2")]
    _, done = server.run(chain, server.call(1, *items, last=1))
    first, fault, last = server.results(done)
    assert isinstance(fault, Fault)
    assert first.data.decode() == f"2 {following_id(items[0].request_id)}"
    assert last.data.decode() == f"2 {following_id(items[2].request_id)}"


def test_native_values_stay_where_the_step_before_wrote_them(server: Any, archive: Make) -> None:
    """Kept beyond the batch, such an input is named; a result that is one is handed on where it lies."""
    make = """
        import torch
        def handle(data, context):
            return data and [torch.arange(4.)]
    """
    keep = """
        kept = []
        def handle(data, context):
            if data is not None:
                kept[:] = [data[0]["body"]]
                return [data[0]["body"]]
    """
    chain = [
        archive(make, name="a", is_function=True, data_format="native"),
        archive(keep, name="b", is_function=True, data_format="native", parents=("a",)),
    ]
    _, done = server.run(chain, server.call(1, server.item(server.put(b"")), last=1))
    (got,) = server.results(done)
    assert (got.kind, got.shape) == (Kind.TENSOR, (4,))
    assert server.reply(done).kept == (got.place,)


def test_an_input_that_two_steps_keep_is_named_once_and_released_once(server: Any, archive: Make) -> None:
    code = """
        kept = []
        def handle(data, context):
            if data is not None:
                kept[:] = [row["body"] for row in data if len(row["body"]) > 1]
                return [data[0]["body"]]
    """
    chain = [
        archive(code, name=name, is_function=True, data_format="native", parents=("x",)) for name in "abc"
    ]
    ref = server.put(b"to be kept")
    calls = [server.call(1, server.item(ref), last=2), server.call(2, server.item(server.put(b".")), last=2)]
    _, done, _, *released = server.run(chain, *calls)
    assert server.reply(done).kept == (ref.descriptor,)
    assert [message.descriptor for message in released] == [ref.descriptor]


def test_an_input_that_one_step_drops_is_held_for_another(server: Any, archive: Make) -> None:
    code = """
        kept = []
        def handle(data, context):
            if data is not None:
                body = data[0]["body"]
                kept[:] = kept if context.model_name == "b" and kept else [body]
                return [body]
    """
    chain = [
        archive(code, name=name, is_function=True, data_format="native", parents=("x",)) for name in "ab"
    ]
    refs = [server.put(b"first"), server.put(b"second")]
    calls = [server.call(tag, server.item(ref), last=1) for tag, ref in enumerate(refs)]
    calls.append(server.call(2, server.item(server.put(b"third")), last=1))
    _, *messages = server.run(chain, *calls)
    released = [message.descriptor for message in messages if message.kind == MessageKind.RELEASE]
    assert released == [refs[1].descriptor]


def test_a_model_behind_a_function_gets_its_results_as_one_batch(server: Any, archive: Make) -> None:
    make = """
        import torch
        def handle(data, context):
            return data and [torch.full((1003,), float(str(data[0]["body"], "utf-8")))]
    """
    model = "def handle(data, context): return data and data.tensor().mean(1).tolist()"
    chain = [
        archive(make, name="a", is_function=True, data_format="native"),
        archive(model, name="m", parents=("a",), data_format="native", leaf=True),
    ]
    items = [server.item(server.put(b"%d" % number)) for number in range(4)]
    _, done = server.run(chain, server.call(1, *items, last=1))
    assert [got.json() for got in server.results(done)] == [0.0, 1.0, 2.0, 3.0]
    assert [ran.copies for ran in server.reply(done).ran] == [0, 0]


def test_every_node_has_its_own_surroundings(server: Any, tmp_path: Path) -> None:
    chain = []
    for name in ("a", "b"):
        directory = tmp_path / name
        directory.mkdir()
        (directory / "handler.py").write_text("\n".join(line[4:] for line in WHERE.splitlines()))
        for module in ("shared", "late"):
            (directory / f"{module}.py").write_text(f"NAME = {name + module!r}\ncount = 0\n")
        chain.append(WorkerSpec(name, "handler.py", str(directory), is_function=True, parents=("x",)))
    homes = homes_of(chain)
    item = server.item(server.put(b""))
    calls = [server.call(n, item, first=n % 2, last=n % 2) for n in range(4)]
    _, *done = server.run(chain, *calls, homes=homes)
    said = [server.results(each)[0].json() for each in done]
    assert [each[:3] for each in said] == [
        ["ashared", "alate", 2],
        ["bshared", "blate", 2],
        ["ashared", "alate", 3],
        ["bshared", "blate", 3],
    ]
    assert [os.path.basename(each[3]) for each in said] == ["a", "b", "a", "b"]
    assert all(each[3] in each[4].split(os.pathsep) for each in said)
    assert not {"shared", "late", "handler"} & set(sys.modules)


def test_a_node_stays_where_it_went(server: Any, tmp_path: Path) -> None:
    """And finds what it has put on its path, while its neighbours see nothing of it."""
    code = """
        import os, sys
        def handle(data, context):
            if data is None:
                sys.path.append(os.path.abspath("more"))
                os.chdir("/")
                return None
            import further
            return [f"{os.getcwd()} {further.NAME}"]
    """
    other = "import os\ndef handle(data, context):\n    return data and [os.getcwd()]\n"
    chain = []
    for name, text in (("a", "\n".join(line[8:] for line in code.splitlines())), ("b", other)):
        (tmp_path / name / "more").mkdir(parents=True)
        (tmp_path / name / "handler.py").write_text(text)
        (tmp_path / name / "more" / "further.py").write_text("NAME = 'further'\n")
        chain.append(WorkerSpec(name, "handler.py", str(tmp_path / name), is_function=True, parents=("x",)))
    calls = [server.call(n, server.item(server.put(b"")), first=n % 2, last=n % 2) for n in range(4)]
    _, *done = server.run(chain, *calls, homes=homes_of(chain))
    said = [server.results(each)[0].data.decode() for each in done]
    assert said == ["/ further", str(tmp_path / "b")] * 2


def test_neighbours_in_one_directory_keep_their_own_places(server: Any, archive: Make) -> None:
    """One goes elsewhere and takes a variable along; the other finds neither, in whatever order they run."""
    moving = """
        import os
        def handle(data, context):
            if data is not None:
                os.chdir("/")
                os.environ["PYTHONPATH"] = "elsewhere"
                return [f"{os.getcwd()} {os.environ['PYTHONPATH']}"]
    """
    staying = """
        import os
        def handle(data, context):
            return data and [f"{os.getcwd()} {'elsewhere' in os.environ['PYTHONPATH']}"]
    """
    chain = [
        archive(code, name=name, is_function=True, parents=("x",))
        for name, code in (("a", moving), ("b", staying))
    ]
    steps = [0, 1, 1, 0, 0, 1]
    calls = [server.call(n, server.item(server.put(b"")), first=n, last=n) for n in steps]
    _, *done = server.run(chain, *calls, homes=homes_of(chain))
    said = [server.results(each)[0].data.decode() for each in done]
    expected = "/ elsewhere", f"{chain[1].model_dir} False"
    assert said == [expected[step] for step in steps]


def test_a_directory_that_is_gone_is_looked_for_again(tmp_path: Path) -> None:
    (tmp_path / "gone").mkdir()
    home, other = (
        Home(str(tmp_path / name), [], sys.path, left) for left in [Left()] for name in ("gone", ".")
    )
    with home:
        (tmp_path / "gone").rmdir()
    (tmp_path / "gone").mkdir()
    with home:
        assert os.getcwd() == str(tmp_path / "gone")
    with other:
        assert os.getcwd() == str(tmp_path)


def test_two_functions_of_a_file_do_not_share_their_globals(server: Any, archive: Make) -> None:
    code = """
        calls = 0
        def handle(data, context):
            global calls
            if data is not None:
                calls += 1
                return [b"%d" % calls + bytes(data[0]["body"])]
    """
    spec = archive(code, is_function=True, parents=("x",))
    chain = [spec, spec]
    items = [server.item(server.put(b"")) for _ in range(2)]
    _, done = server.run(chain, server.call(1, *items, last=1), homes=homes_of(chain))
    assert [got.data for got in server.results(done)] == [b"11", b"22"]


def test_a_handler_that_does_not_load_is_named_by_its_step(server: Any, archive: Make) -> None:
    (failed,) = server.run([*steps(archive, "a"), archive("raise KeyError('weights')", name="b")])
    assert server.failure(failed).step == 1


def test_a_dead_worker_leaves_what_its_last_step_began_with(server: Any, archive: Make) -> None:
    """Here it is killed before it answers, by what no handler can stop."""

    class Killed(BaseException):
        pass

    code = """
        import builtins
        def handle(data, context):
            if data is not None:
                raise builtins.killed
    """
    import builtins

    builtins.killed = Killed  # type: ignore[attr-defined]
    items = [server.item(server.put(word)) for word in (b"fail at a", b"1", b"2")]
    chain = [*steps(archive, "a"), archive(code, name="b", parents=("a",))]
    try:
        with pytest.raises(Killed):
            server.run(chain, server.call(7, *items, last=1))
    finally:
        del builtins.killed
    scratch = server.transport.arena.view(server.scratch)
    seen = progress.read(scratch, 7)
    assert seen is not None
    assert (seen.step, seen.item) == (1, 0)
    assert seen.passed is not None
    reached = decode_passed(server.transport.arena.view(seen.passed))
    assert [(index, bytes(server.transport.arena.view(ref.descriptor))) for index, ref in reached] == [
        (1, b"1a"),
        (2, b"2a"),
    ]
    assert progress.read(scratch, 8) is None


@pytest.mark.parametrize("last", ["00", "0f", "ff"])
def test_ids_of_following_jobs_are_other_uuids(last: str) -> None:
    ids = [f"12345678-1234-4234-8234-1234567890{last}"]
    for _ in range(3):
        ids.append(following_id(ids[-1]))
    assert len(set(ids)) == 4
    assert {len(each) for each in ids} == {36}
