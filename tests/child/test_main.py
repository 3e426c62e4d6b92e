"""The loop of a worker, message by message."""

from __future__ import annotations

import dataclasses
import io
from typing import TYPE_CHECKING, Any

import orjson
import pytest
import torch
import trio

from wfserve.child.main import serve
from wfserve.transport.base import BRIEF_SPIN, NOWHERE, Descriptor, Message, MessageKind
from wfserve.transport.frame import Kind, pack_header
from wfserve.transport.message import Fault, Ref

if TYPE_CHECKING:
    from collections.abc import Callable

    from wfserve.child.spec import WorkerSpec

    Make = Callable[..., WorkerSpec]

ECHO = """
    def handle(data, context):
        return data and [row["body"] for row in data]
"""
REPR = """
    def handle(data, context):
        return data and [repr(row) for row in data]
"""


def kinds(messages: list[Message]) -> list[int]:
    return [message.kind for message in messages]


def floats(server: Any, *values: float) -> Any:
    value = torch.tensor(values)
    return server.put(value.numpy().tobytes(), Kind.TENSOR, "float32", tuple(value.shape))


def test_a_loaded_handler_is_ready(server: Any, archive: Make) -> None:
    assert kinds(server.run(archive(ECHO))) == [MessageKind.READY]


def test_a_stop_before_anything_else_loads_nothing(server: Any, archive: Make) -> None:
    link, port = server.transport.connect()
    link.send(Message(MessageKind.STOP, 0, NOWHERE))
    serve([archive("raise ValueError")], port.attach())
    assert link.drain() == []


class Waits:
    """A link that notes for how long its user would wait awake."""

    def __init__(self, link: Any) -> None:
        self._link = link
        self.spins: list[int] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._link, name)

    def receive(self, spin_us: int = BRIEF_SPIN) -> Message:
        self.spins.append(spin_us)
        return self._link.receive(spin_us)


@pytest.mark.parametrize(
    ("most", "spins"), [(400, [0, 400, 400, BRIEF_SPIN, 400]), (10, [0, 10, 10, 10, 10]), (0, [0] * 5)]
)
def test_after_few_inputs_it_waits_awake(server: Any, archive: Make, most: int, spins: list[int]) -> None:
    link, port = server.transport.connect()
    link.send(Message(MessageKind.GRANT, 0, server.lend_scratch()))
    for number, inputs in enumerate([1, 4, 5, 1]):
        link.send(server.call(number, *(server.item(server.put(b"x")) for _ in range(inputs))))
    link.send(Message(MessageKind.STOP, 0, NOWHERE))
    waits = Waits(port.attach())
    serve([archive(ECHO, spin_us=most)], waits)
    assert waits.spins[1:] == spins  # the first is for what it needs to load


@pytest.mark.parametrize(
    ("code", "status", "message"),
    [
        ("raise MemoryError", 507, "System out of memory"),
        ("raise RuntimeError('CUDA error')", 507, "System out of memory"),
        ("raise RuntimeError('x')", 500, "Unknown exception"),
        ("raise ValueError('bad weights')", 500, "ValueError: bad weights"),
        ("import sys; sys.exit(3)", 500, "SystemExit: 3"),
        ("this is no Python", 500, "SyntaxError: "),
        ("x = 1", 500, "ImportError: "),
    ],
)
def test_a_handler_that_cannot_be_loaded_says_why(
    server: Any, archive: Make, code: str, status: int, message: str
) -> None:
    (failed,) = server.run(archive(code))
    failure = server.failure(failed)
    assert failure.code == status
    assert failure.message.startswith(message)


def test_the_start_node_gets_what_the_client_sent(server: Any, archive: Make) -> None:
    json = {"Content-Type": "application/json"}
    form = {"content-type": "application/x-www-form-urlencoded"}
    results = server.batch(
        archive(REPR),
        server.item(server.put(b'{"a": 1}'), headers=json),
        server.item(server.put(b"a=1")),
        server.item(server.put(b"a=1"), headers=form),
        server.item(server.put(b"")),
        server.item(),
    )
    assert [result.data.decode() for result in results] == [
        "{'body': {'a': 1}}",
        "{'body': bytearray(b'a=1')}",
        "{'a': bytearray(b'1')}",
        "{'body': bytearray(b'')}",
        "{'body': bytearray(b'')}",
    ]


def test_later_nodes_get_bytes_by_their_parents_names_in_arrival_order(server: Any, archive: Make) -> None:
    json = {"Content-Type": "application/json"}
    (result,) = server.batch(
        archive(REPR, parents=("only",)), server.item(server.put(b"{}", Kind.JSON), headers=json)
    )
    assert result.data.decode() == "{'body': bytearray(b'{}')}"
    spec = archive(REPR, parents=("one", "two", "three"))
    item = server.item(*(server.put(data) for data in (b"3", b"1", b"2")), parents=(2, 0, 1))
    (result,) = server.batch(spec, item)
    assert (
        result.data.decode() == "{'three': bytearray(b'3'), 'one': bytearray(b'1'), 'two': bytearray(b'2')}"
    )


@pytest.mark.parametrize("data_format", ["bytes", "native"])
def test_a_function_may_return_the_same_buffer_every_time(
    data_format: str, server: Any, archive: Make
) -> None:
    code = """
        import torch
        buffer = torch.zeros(1)
        def handle(data, context):
            if data is None:
                return None
            buffer[0] += 1
            return [buffer]
    """
    spec = archive(code, is_function=True, parents=("a",), data_format=data_format)
    first, second = server.batch(spec, server.item(server.put(b"")), server.item(server.put(b"")))
    assert first.data != second.data


def test_headers_and_what_the_handler_says_travel(server: Any, archive: Make) -> None:
    code = """
        def fn(data, context):
            if data is not None:
                context.set_response_content_type(0, context.get_request_header(0, "Accept"))
                return [context.get_all_request_header(0)["body"]]
    """
    one, other = (server.item(server.put(b"x"), headers={"accept": accept}) for accept in ("a/b", "c/d"))
    results = server.batch(archive(code, ":fn", is_function=True), one, other)
    assert [result.response for result in results] == [b'{"content_type":"a/b"}', b'{"content_type":"c/d"}']
    assert results[0].json() == {"content-type": ""}


def test_a_broken_body_fails_alone(server: Any, archive: Make) -> None:
    form = {"content-type": "multipart/form-data; boundary=b"}
    bad, good = server.batch(
        archive(REPR), server.item(server.put(b"-"), headers=form), server.item(server.put(b"-"))
    )
    assert bad == Fault(400, "BadRequestException", "The multipart body has no end.", splittable=False)
    assert good.data == b"{'body': bytearray(b'-')}"


def test_a_batch_of_broken_bodies_never_reaches_the_handler(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context): return data and [1 / 0]")
    item = server.item(server.put(b"-"), headers={"content-type": "multipart/form-data"})
    (fault,) = server.batch(spec, item)
    assert fault.code == 400


def test_a_result_that_cannot_be_sent_fails_alone(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context): return data and [object(), 'fine']")
    bad, good = server.batch(spec, server.item(), server.item())
    assert bad == Fault(503, "InternalServerException", "Unsupported model output data type.", False)
    assert good.data == b"fine"


def test_a_value_that_raises_while_it_is_encoded_fails_alone(server: Any, archive: Make) -> None:
    code = """
        class Odd(str):
            def encode(self, *args):
                raise KeyError("odd")
        def handle(data, context):
            return data and [Odd("x"), "fine"]
    """
    bad, good = server.batch(archive(code), server.item(), server.item())
    assert (bad.code, bad.message) == (503, "Unsupported model output data type.")
    assert good.data == b"fine"


@pytest.mark.parametrize(
    "saying",
    [
        "context.set_response_status(10**30)",
        "context.set_response_status({1})",
        "context.set_response_header(0, 'x', '\\udc80')",
    ],
)
def test_a_response_that_cannot_be_said_fails_alone(server: Any, archive: Make, saying: str) -> None:
    code = f"""
        def handle(data, context):
            if data is not None:
                {saying}
                return ["x"] * len(data)
    """
    bad, good = server.batch(archive(code, leaf=True), server.item(), server.item())
    assert (bad.code, bad.message) == (503, "The status or headers of the response cannot be sent.")
    assert good.data == b"x"


def test_response_headers_are_limited(server: Any, archive: Make) -> None:
    code = """
        def handle(data, context):
            if data is not None:
                context.set_response_header(0, "x", "y" * 70000)
                return [1]
    """
    (fault,) = server.batch(archive(code), server.item(), extent=1 << 18)
    assert fault.code == 503


def test_a_class_of_the_archive_cannot_be_handed_on(server: Any, archive: Make) -> None:
    code = """
        class Box: pass
        def handle(data, context): return data and [Box()]
    """
    spec = archive(code, data_format="native")
    (fault,) = server.batch(spec, server.item())
    assert f"{spec.handler.removesuffix('.py')}.Box cannot be handed to another node" in fault.message


def test_native_tensors_cross_without_a_copy(server: Any, archive: Make) -> None:
    spec = archive(ECHO, data_format="native", parents=("a",))
    ref = floats(server, 1.0, 2.0)
    (result,) = server.batch(spec, server.item(ref))
    assert (result.place, result.dtype, result.shape) == (ref.descriptor, "float32", (2,))


def test_a_copying_node_may_write_to_its_inputs(server: Any, archive: Make) -> None:
    code = "def handle(data, context): return data and [row['body'].add_(1) for row in data]"
    spec = archive(code, data_format="native", parents=("a",), copy_inputs=True)
    ref = floats(server, 1.0)
    (result,) = server.batch(spec, server.item(ref))
    assert torch.frombuffer(bytearray(result.data), dtype=torch.float32).tolist() == [2.0]
    assert bytes(server.transport.arena.view(ref.descriptor)) == torch.ones(1).numpy().tobytes()


def test_a_raw_body_is_a_buffer_in_native_mode(server: Any, archive: Make) -> None:
    code = """
        import torch
        def handle(data, context):
            return data and [torch.frombuffer(row["body"], dtype=torch.float32) * 2 for row in data]
    """
    spec = archive(code, data_format="native")
    (result,) = server.batch(spec, server.item(server.put(torch.ones(3).numpy().tobytes())))
    assert (result.kind, result.shape) == (Kind.TENSOR, (3,))
    assert torch.frombuffer(bytearray(result.data), dtype=torch.float32).tolist() == [2.0, 2.0, 2.0]


def test_a_native_leaf_answers_json_and_a_bytes_node_saves_tensors(server: Any, archive: Make) -> None:
    spec = archive(ECHO, data_format="native", parents=("a",), leaf=True)
    (leaf,) = server.batch(spec, server.item(floats(server, 1.0, 2.0)))
    assert leaf.json() == [1.0, 2.0]
    code = "import torch\ndef handle(data, context): return data and [torch.ones(2)]"
    (saved,) = server.batch(archive(code, leaf=True), server.item())
    assert torch.load(io.BytesIO(saved.data), weights_only=True).tolist() == [1.0, 1.0]


def test_more_room_is_asked_for_once_and_used(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context): return data and [b'x' * 5000] * len(data)")
    room = Message(MessageKind.GRANT, 1, server.lend(16384))
    _, grow, done = server.run(spec, server.call(1, server.item(), server.item(), extent=4096), room)
    assert (grow.kind, grow.tag) == (MessageKind.GROW, 1)
    assert 10_000 < grow.descriptor.length < 12_000
    results = server.results(done)
    assert [result.data for result in results] == [b"x" * 5000] * 2
    assert all(result.place.offset % 64 == 0 for result in results)


def test_without_more_room_what_does_not_fit_fails(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context): return data and ['small', 'x' * 5000]")
    refusal = Message(MessageKind.GRANT, 1, NOWHERE)
    *_, done = server.run(spec, server.call(1, server.item(), server.item(), extent=4096), refusal)
    small, large = server.results(done)
    assert small.data == b"small"
    assert large == Fault(507, "InternalServerException", "Out of resources", splittable=False)


def test_without_room_for_the_reply_every_item_fails(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context): return data and ['x' * 500, 'y' * 500]")
    refusals = [Message(MessageKind.GRANT, 1, NOWHERE)] * 2
    *_, done = server.run(spec, server.call(1, server.item(), server.item(), extent=1100), *refusals)
    assert [result.code for result in server.results(done)] == [507, 507]


def test_a_stop_while_it_waits_for_room_ends_it(server: Any, archive: Make) -> None:
    spec = archive("def handle(data, context): return data and [b'x' * 5000]")
    messages = server.run(spec, server.call(1, server.item(), extent=4096))
    assert kinds(messages) == [MessageKind.READY, MessageKind.GROW]


KEEPER = """
    kept = []
    def handle(data, context):
        if data is not None:
            kept[:] = [row["body"][1:] for row in data[1:]]
            return [None] * len(data)
"""


def test_inputs_that_are_kept_are_named_and_released_when_dropped(server: Any, archive: Make) -> None:
    spec = archive(KEEPER, data_format="native", parents=("a",), leaf=True)
    refs = [floats(server, 1.0, 2.0) for _ in range(3)]
    first = server.call(1, *(server.item(ref) for ref in refs))
    second = server.call(2, server.item(floats(server, 1.0)))
    _, done, last, *released = server.run(spec, first, second)
    assert server.reply(done).kept == (refs[1].descriptor, refs[2].descriptor)
    assert server.reply(last).kept == ()
    assert [message.descriptor for message in released] == [ref.descriptor for ref in refs[1:]]
    assert kinds(released) == [MessageKind.RELEASE] * 2


@pytest.mark.parametrize("code", [ECHO, "def handle(data, context): return data and [1 / 0]"])
def test_nothing_is_kept_by_the_worker_itself(server: Any, archive: Make, code: str) -> None:
    spec = archive(code, data_format="native", parents=("a", "b"))
    pickled = server.batch(
        archive("def handle(d, c): return d and [{'x': 1}]", data_format="native"), server.item()
    )
    loan = server.put(pickled[0].data, Kind.OBJECT)
    _, done = server.run(spec, server.call(1, server.item(floats(server, 1.0), loan)))
    assert server.reply(done).kept == ()


def test_an_input_of_several_can_be_kept(server: Any, archive: Make) -> None:
    code = """
        kept = []
        def handle(data, context):
            if data is not None:
                kept.append(data[1]["b"])
                return [None] * len(data)
    """
    spec = archive(code, data_format="native", parents=("a", "b"))
    items = [server.item(floats(server, 1.0), floats(server, 2.0)) for _ in range(2)]
    _, done = server.run(spec, server.call(1, *items))
    assert server.reply(done).kept == (items[1].inputs[1][1].descriptor,)


def test_a_model_from_its_archive_serves_a_batch(server: Any, archive: Make, tmp_path: Any) -> None:
    code = """
        import torch
        from ts.torch_handler.base_handler import BaseHandler
        class Net(BaseHandler):
            def preprocess(self, data):
                rows = [row.get("body") for row in data]
                return torch.stack([
                    row if isinstance(row, torch.Tensor) else torch.frombuffer(row, dtype=torch.float32)
                    for row in rows
                ])
            def postprocess(self, out):
                return list(out)
    """
    (tmp_path / "net_model.py").write_text(
        "from torch import nn\nclass Net(nn.Linear):\n    def __init__(self): super().__init__(2, 1, False)\n"
    )
    torch.save({"weight": torch.tensor([[1.0, 10.0]])}, tmp_path / "net.pt")
    manifest = {"model": {"modelFile": "net_model.py", "serializedFile": "net.pt"}}
    native = archive(code, manifest=manifest, parents=("a",), data_format="native")
    plain = dataclasses.replace(native, data_format="bytes", parents=(), leaf=True)
    results = server.batch(
        native, server.item(floats(server, 1.0, 2.0)), server.item(floats(server, 3.0, 4.0))
    )
    logits = [torch.frombuffer(bytearray(result.data), dtype=torch.float32).item() for result in results]
    assert logits == [21.0, 43.0]
    raw = server.put(torch.tensor([1.0, 2.0]).numpy().tobytes())
    (result,) = server.batch(plain, server.item(raw))
    assert torch.load(io.BytesIO(result.data), weights_only=True).tolist() == [21.0]


async def test_a_child_in_a_thread_answers_one_batch_after_another(server: Any, archive: Make) -> None:
    link, port = server.transport.connect()
    spec = archive(ECHO)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.to_thread.run_sync, serve, [spec], port.attach())
        link.send(Message(MessageKind.GRANT, 0, server.lend_scratch()))
        (ready,) = await link.receive()
        assert ready.kind == MessageKind.READY
        for tag in range(1, 20):
            link.send(server.call(tag, server.item(server.put(b"%d" % tag))))
            (done,) = await link.receive()
            assert done.tag == tag
            assert server.results(done)[0].data == b"%d" % tag
        link.send(Message(MessageKind.STOP, 0, NOWHERE))
    assert link.drain() == []


def test_a_descriptor_outside_of_everything_ends_the_child(server: Any, archive: Make) -> None:
    with pytest.raises(ValueError, match="held slot"):
        server.run(archive(ECHO), Message(MessageKind.CALL, 1, Descriptor(1, 1 << 40, 64)))


METERED = """
    def handle(data, context):
        for row in data or ():
            context.metrics.add_counter("calls", 1)
            context.metrics.add_metric(str(row["body"], "utf-8"), 1, "count")
        return data and [b""] * len(data)
"""


@pytest.mark.parametrize("function", [True, False])
def test_what_a_handler_recorded_travels_with_its_batch(server: Any, archive: Make, function: bool) -> None:
    spec = archive(METERED, is_function=function)
    first = server.call(1, *(server.item(server.put(name)) for name in (b"a", b"b")))
    _, one, two = server.run(spec, first, server.call(2, server.item(server.put(b"a"))))
    recorded = [
        [(name, value) for name, _, _, value, _ in orjson.loads(server.reply(done).ran[0].metrics)]
        for done in (one, two)
    ]
    assert recorded == [[("calls", 2.0), ("a", 1.0), ("b", 1.0)], [("calls", 1.0), ("a", 1.0)]]


def test_nothing_recorded_is_nothing_sent(server: Any, archive: Make) -> None:
    _, done = server.run(archive(ECHO), server.call(1, server.item(server.put(b"a"))))
    assert server.reply(done).ran[0].metrics == b""


def test_metrics_give_way_to_results(server: Any, archive: Make) -> None:
    """There is no more memory: the reply goes without what was recorded."""
    metered = archive(METERED)
    call = server.call(1, server.item(server.put(b"n" * 2000)), extent=1024)
    nothing = Message(MessageKind.GRANT, 1, NOWHERE)
    *_, done = server.run(metered, call, nothing)
    assert server.reply(done).ran[0].metrics == b""
    assert [each.data for each in server.results(done)] == [b""]


@pytest.mark.parametrize("data_format", ["bytes", "native"])
def test_a_direct_call_reads_a_clients_body_and_answers_a_client(
    server: Any, archive: Make, data_format: str
) -> None:
    """Before one of a walk, which reads its parents and is read by a node."""
    code = """
        import torch

        def handle(data, context):
            return data and [{"row": repr(row), "t": torch.ones(1).tolist()} for row in data]
    """
    spec = archive(code, parents=("a", "b"), data_format=data_format)
    body = server.put(b'{"x": 1}')
    item = server.item(body, headers={"content-type": "application/json"})
    first, second = server.call(1, item, direct=True), server.call(2, server.item(body, body))
    _, *done = server.run(spec, first, second)
    called, walked = (server.results(each)[0] for each in done)
    assert called.kind == Kind.JSON
    assert called.json() == {"row": "{'body': {'x': 1}}", "t": [1.0]}
    assert walked.kind == (Kind.JSON if data_format == "bytes" else Kind.OBJECT)
    assert b"'a':" in walked.data


ROWS = """
    import torch
    def handle(data, context):
        if data is not None:
            return [torch.full((1003,), float(number)) for number in range(len(data))]
"""


def test_equal_tensors_are_written_as_rows(server: Any, archive: Make) -> None:
    spec = archive(ROWS, data_format="native")
    places = [result.place for result in server.batch(spec, *(server.item() for _ in range(4)))]
    assert [place.offset - places[0].offset for place in places] == [0, 4012, 8024, 12036]
    assert places[0].offset % 64 == 0


def test_rows_of_different_shapes_and_what_is_no_tensor_are_aligned(server: Any, archive: Make) -> None:
    code = """
        import torch
        def handle(data, context):
            return data and [torch.ones(3), torch.ones(3), torch.ones(3, 1), b"a", b"b", torch.ones(3)]
    """
    results = server.batch(archive(code, data_format="native"), *(server.item() for _ in range(6)))
    first = results[0].place.offset
    assert [result.place.offset - first for result in results] == [0, 12, 64, 128, 192, 256]


def test_copies_are_counted(server: Any, archive: Make) -> None:
    stacks = "def handle(data, context): return data and data.stack([row['body'] for row in data]).tolist()"
    refs = [floats(server, 1.0, 2.0) for _ in range(3)]
    for code, fields, copies in (
        (ECHO, {"data_format": "native"}, 0),
        (stacks, {"data_format": "native"}, 3),
        (stacks, {"data_format": "native", "copy_inputs": True}, 6),
        (ECHO, {}, 3),
    ):
        spec = archive(code, parents=("a",), leaf=True, **fields)
        _, done = server.run(spec, server.call(1, *(server.item(ref) for ref in refs)))
        assert server.reply(done).ran[0].copies == copies, (code, fields)
    _, done = server.run(archive(ECHO), server.call(1, server.item(server.put(b"x"))))
    assert server.reply(done).ran[0].copies == 1


TOGETHER = """
    import torch
    kept = []
    def handle(data, context):
        if data is not None:
            batch = data.tensor()
            if len(data) > 1:
                kept[:] = [batch[0, :1]]
            else:
                kept.clear()
            return batch.sum(1).tolist()
"""


def neighbours(server: Any, count: int) -> list[Any]:
    """Rows of three floats in one piece of memory."""
    whole = server.lend(12 * count)
    values = torch.arange(3.0 * count)
    server.transport.arena.view(whole)[:] = values.numpy().tobytes()
    header = pack_header(Kind.TENSOR, 12, "float32", (3,))
    return [
        Ref(header, whole._replace(offset=whole.offset + 12 * number, length=12)) for number in range(count)
    ]


def test_a_batch_that_is_kept_keeps_its_rows(server: Any, archive: Make) -> None:
    spec = archive(TOGETHER, data_format="native", parents=("a",), leaf=True)
    refs = neighbours(server, 3)
    first = server.call(1, *(server.item(ref) for ref in refs))
    second = server.call(2, server.item(floats(server, 1.0, 2.0)))
    _, done, last, *released = server.run(spec, first, second)
    assert [result.json() for result in server.results(done)] == [3.0, 12.0, 21.0]
    assert server.reply(done).ran[0].copies == 0
    assert server.reply(done).kept == tuple(ref.descriptor for ref in refs)
    assert server.reply(last).kept == ()
    assert [message.descriptor for message in released] == [ref.descriptor for ref in refs]


@pytest.mark.parametrize("function", [True, False])
def test_in_bytes_mode_rows_are_a_plain_list(server: Any, archive: Make, function: bool) -> None:
    code = "def handle(data, context): return data and [type(data).__name__] * len(data)"
    for fields, name in (({}, b"list"), ({"data_format": "native"}, b"Batch")):
        (result,) = server.batch(archive(code, is_function=function, **fields), server.item())
        assert result.data == name


def test_a_base_handler_takes_neighbours_as_they_lie(server: Any, archive: Make, tmp_path: Any) -> None:
    code = """
        from ts.torch_handler.base_handler import BaseHandler
        class Handler(BaseHandler):
            pass
    """
    (tmp_path / "twice_model.py").write_text(
        "from torch import nn\nclass Twice(nn.Module):\n    def forward(self, x): return 2 * x\n"
    )
    manifest = {"model": {"modelFile": "twice_model.py"}}
    spec = archive(code, manifest=manifest, parents=("a",), data_format="native", leaf=True)
    call = server.call(1, *(server.item(ref) for ref in neighbours(server, 4)))
    _, done = server.run(spec, call)
    assert [result.json() for result in server.results(done)][3] == [18.0, 20.0, 22.0]
    assert server.reply(done).ran[0].copies == 0
