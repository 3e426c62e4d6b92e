"""Time, leaving, stopping: whatever a client does or leaves undone, its connection ends and others go on."""

import json
import socket
import struct

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.http.harness import App, heard, responses, serving
from wfserve.http.refusal import OwnAnswers

G = b"GET /echo HTTP/1.1\r\nHost: x\r\n\r\n"
WAIT = b"GET /wait HTTP/1.1\r\nHost: x\r\n\r\n"
POST = b"POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\n"
TIMES = {"header_timeout": 10.0, "body_timeout": 20.0, "keep_alive_timeout": 40.0, "linger_timeout": 5.0}
SLACK = 2.5  # seconds: the server looks at its clocks once a second


async def ended_after(client):
    """Return what the server says until it closes, and the seconds that takes."""
    began, said = trio.current_time(), b""
    while data := await client.recv(65_536):
        said += data
    return said, trio.current_time() - began


@pytest.mark.parametrize(
    ("sent", "seconds", "status"),
    [
        (b"", 10, None),
        (b"\r\n", 10, None),
        (b"G", 10, 408),
        (b"GET / HTTP/1.1\r\nHost: ", 10, 408),
        (G, 40, 200),
        (POST, 20, 408),
        (POST + b"12345", 20, 408),
        (POST.replace(b"echo", b"direct") + b"12345", 20, 408),
        (POST.replace(b"Content-Length: 10", b"Transfer-Encoding: chunked") + b"5\r\n123", 20, 408),
    ],
)
async def test_a_client_that_sends_no_more(sent, seconds, status, autojump_clock):
    async with serving(**TIMES) as server:
        with await server.connect() as client:
            await client.send(sent)
            said, took = await ended_after(client)
    assert seconds <= took <= seconds + SLACK
    assert [got for got, _, _ in responses(said)] == ([] if status is None else [status])


async def test_a_head_that_drips_is_timed_as_a_whole(autojump_clock):
    async with serving(**TIMES) as server:
        with await server.connect() as client:
            for byte in G[:9]:
                await client.send(bytes([byte]))
                await trio.sleep(1)
            said, took = await ended_after(client)
    assert took <= 1 + SLACK
    assert responses(said)[0][0] == 408


async def test_a_body_may_drip(autojump_clock):
    async with serving(**TIMES) as server:
        with await server.connect() as client:
            await client.send(POST)
            for byte in b"0123456789":
                await trio.sleep(15)
                await client.send(bytes([byte]))
            said, _ = await heard(client)
    assert responses(said)[0][2] == b"POST 0123456789"


async def test_a_body_that_was_given_up_is_no_request(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await client.send(POST.replace(b"echo", b"hasty"))
            for piece in (b"12", b"345"):
                await wait_all_tasks_blocked()
                await client.send(piece)
            await trio.sleep(2)
            await client.send(b"67890" + G)
            said, ended = await heard(client)
    assert [body for _, _, body in responses(said)] == [b"12345" + bytes(5)]
    assert ended


async def test_an_application_may_take_its_time(autojump_clock):
    async with serving(**TIMES) as server:
        with await server.connect() as client:
            await client.send(WAIT)
            await trio.sleep(10_000)
            server.app.release.set()
            said, ended = await heard(client)
    assert responses(said)[0][2] == b"waited"
    assert not ended


async def test_a_client_that_reads_nothing_is_given_up(autojump_clock):
    async with serving(send_timeout=30) as server:
        with await server.connect() as client:
            began = trio.current_time()
            await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            await server.app.waiting.wait()
            await server.app.ended.wait()
            assert 30 <= trio.current_time() - began <= 30 + SLACK + 1
            assert not server.app.release.is_set()


async def test_a_client_that_reads_slowly_holds_the_application_back(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await client.send(b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n")
            await wait_all_tasks_blocked()
            assert not server.app.release.is_set()
            received = 0
            while not server.app.release.is_set():
                received += len(await client.recv(1 << 20))
                await wait_all_tasks_blocked()
            rest, ended = await heard(client)
            assert received + len(rest) > 64_000_000
            assert rest.endswith(b"\r\n0\r\n\r\n")
            assert not ended


def close(client):
    client.close()


def reset(client):
    """Close at once and tell the peer so."""
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()


@pytest.mark.parametrize(
    "sent",
    [WAIT, WAIT + G, WAIT + b"X" * 70_000, WAIT.replace(b"1.1", b"1.0")],
    ids=["plain", "pipelined", "full", "1.0"],
)
@pytest.mark.parametrize("leave", [close, reset])
async def test_a_client_that_leaves_while_its_request_runs(sent, leave, autojump_clock):
    async with serving() as server:
        client = await server.connect()
        await client.send(sent)
        await server.app.waiting.wait()
        leave(client)
        if b"1.0" in sent and leave is not reset:  # indistinguishable from one that only has no more to send
            await wait_all_tasks_blocked()
            server.app.release.set()
        else:
            await server.app.gone.wait()


@pytest.mark.parametrize("leave", [close, reset])
@pytest.mark.parametrize("early", [True, False], ids=["early", "late"])
async def test_an_application_is_called_when_its_client_has_gone(leave, early, autojump_clock):
    class Listening(App):
        async def wait(self, scope, receive, send):
            self.waiting.set()
            await self.release.wait()
            with trio.CancelScope() as scope_:
                scope["extensions"]["wfserve.gone"]["call"](scope_.cancel)
                self.ended.set()
                await trio.sleep_forever()
            self.gone.set()

    async with serving(Listening()) as server:
        app, client = server.app, await server.connect()
        await client.send(WAIT)
        await app.waiting.wait()
        if early:  # before the application asks to be called
            leave(client)
            await wait_all_tasks_blocked()
        app.release.set()
        await app.ended.wait()
        if not early:
            leave(client)
        await app.gone.wait()


async def test_a_client_that_stays_is_not_reported_gone_by_later_requests(autojump_clock):
    calls = []

    class Listening(App):
        async def ignore(self, scope, receive, send):
            scope["extensions"]["wfserve.gone"]["call"](lambda: calls.append(scope["path"]))
            await super().ignore(scope, receive, send)

    async with serving(Listening()) as server:
        with await server.connect() as client:
            await client.send(G.replace(b"echo", b"ignore"))
            await heard(client)
            await client.send(WAIT)
            await server.app.waiting.wait()
        await server.app.gone.wait()
    assert calls == []


@pytest.mark.parametrize("sent", [b"", b"G", POST, POST + b"1", POST.replace(b"echo", b"direct") + b"1"])
@pytest.mark.parametrize("leave", [close, reset])
async def test_a_client_that_leaves_before_its_request_is_complete(sent, leave, autojump_clock):
    async with serving() as server:
        client = await server.connect()
        await client.send(sent)
        await wait_all_tasks_blocked()
        assert server.connections == 1
        leave(client)
        await wait_all_tasks_blocked()
        assert server.connections == 0
        assert server.app.gone.is_set() == (POST[:4] in sent)


@pytest.mark.parametrize("version", [b"1.1", b"1.0"])
async def test_a_client_that_only_sends_no_more_is_answered(version, autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await client.send(WAIT.replace(b"1.1", version))
            client.shutdown(socket.SHUT_WR)
            await server.app.waiting.wait()
            await trio.sleep(7)  # seconds of the test's clock; meanwhile the server asks twice
            server.app.release.set()
            said, ended = await heard(client)
    assert [status for status, _, _ in responses(said)] == ([102, 102, 200] if version == b"1.1" else [200])
    assert ended


async def test_what_is_pipelined_while_a_request_runs_is_answered_after_it(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await client.send(WAIT)
            await server.app.waiting.wait()
            await client.send(G[:20])
            await wait_all_tasks_blocked()
            await client.send(G[20:] + G)
            await wait_all_tasks_blocked()
            server.app.release.set()
            said, _ = await heard(client)
    assert [body for _, _, body in responses(said)] == [b"waited", b"GET ", b"GET "]


async def test_reading_ahead_is_bounded(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await client.send(WAIT)
            await server.app.waiting.wait()
            sent = 0
            with trio.move_on_after(1):
                while True:
                    sent += await client.send(G * 1000)
            server.app.release.set()
            assert sent < 64_000_000  # what the two sockets hold


async def test_a_watcher_that_stays_is_told_when_the_response_is_complete(autojump_clock):
    class Watching(App):
        async def echo(self, scope, receive, send):
            await receive()
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._watch, receive, nursery)
                await wait_all_tasks_blocked()
                await super().ignore(scope, receive, send)

    async with serving(Watching()) as server:
        with await server.connect() as client:
            await client.send(G)
            await server.app.gone.wait()
            await client.send(G)
            said, ended = await heard(client)
    assert len(responses(said)) == 2
    assert not ended


async def test_connections_over_the_limit_are_turned_away(autojump_clock):
    counted = []
    async with serving(own=OwnAnswers([(b"x-own", b"1")], counted.append), max_connections=2) as server:
        with await server.connect() as first, await server.connect() as second:
            await first.send(G)
            await second.send(G)
            await wait_all_tasks_blocked()
            said, ended = await server.talk(b"")
            assert ended
            ((status, headers, body),) = responses(said)
            assert (status, dict(headers)[b"connection"]) == (503, b"close")
            assert (dict(headers)[b"x-own"], counted) == (b"1", [503])
            assert json.loads(body)["type"] == "ServiceUnavailableException"
        await wait_all_tasks_blocked()
        said, _ = await server.talk(G)
        assert responses(said)[0][0] == 200


async def test_accepting_goes_on_when_descriptors_run_out(autojump_clock, monkeypatch, caplog):
    original, failures = socket.socket.accept, [24, 103]  # EMFILE, ECONNABORTED

    def accept(sock):
        if failures:
            raise OSError(failures.pop(0), "Too many open files")
        return original(sock)

    monkeypatch.setattr(socket.socket, "accept", accept)
    async with serving() as server:
        with await server.connect() as client:
            await client.send(G)
            assert (await client.recv(1000)).endswith(b"GET ")
    assert "Too many open files" in caplog.text


async def test_stop_closes_idle_connections_at_once_and_lets_requests_finish(autojump_clock):
    async with serving() as server:
        with await server.connect() as fresh, await server.connect() as idle, await server.connect() as busy:
            await idle.send(G)
            await busy.send(WAIT)
            await server.app.waiting.wait()
            await wait_all_tasks_blocked()
            server.stop.set()
            assert await heard(fresh) == (b"", True)
            said, ended = await heard(idle)
            assert ended
            assert responses(said)[0][2] == b"GET "
            assert await heard(busy) == (b"", False)
            server.app.release.set()
            said, ended = await heard(busy)
            assert ended
            ((_, headers, body),) = responses(said)
            assert (dict(headers)[b"connection"], body) == (b"close", b"waited")


async def test_a_request_that_came_with_the_stop_is_answered(autojump_clock):
    async with serving() as server:
        with await server.connect() as client:
            await wait_all_tasks_blocked()
            client_side = socket.socket(fileno=client.detach())
            server.stop.set()
            client_side.send(G)  # before the server has run
            await wait_all_tasks_blocked()
            assert responses(client_side.recv(1000))[0][2] == b"GET "
            client_side.close()


async def test_a_request_that_does_not_end_is_cancelled(autojump_clock):
    began = trio.current_time()
    async with serving(stop_timeout=7) as server:
        client = await server.connect()
        await client.send(WAIT)
        await server.app.waiting.wait()
        server.stop.set()
    assert 7 <= trio.current_time() - began < 7 + SLACK
    client.close()


@pytest.mark.parametrize(
    "sent",
    [b"", b"GET", G, POST, POST + b"1", WAIT, WAIT + G, b"GET /flood HTTP/1.1\r\nHost: x\r\n\r\n", b"\0"],
)
async def test_cancelled_at_every_stage_nothing_stays_open(sent, autojump_clock):
    with trio.CancelScope() as scope:  # `serving` looks at what is left
        async with serving() as server:
            client = await server.connect()
            await client.send(sent)
            await wait_all_tasks_blocked()
            assert server.connections == 1
            scope.cancel()
    client.close()
    assert scope.cancelled_caught


async def test_an_error_of_the_server_itself_costs_one_connection(autojump_clock, caplog):
    def broken(_status):
        raise RuntimeError("a defect")

    async with serving(own=OwnAnswers(counted=broken)) as server:
        assert await server.talk(b"\0") == (b"", True)
        said, _ = await server.talk(G)
    assert responses(said)[0][0] == 200
    assert "a defect" in caplog.text
