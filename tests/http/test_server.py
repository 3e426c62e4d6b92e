"""What is sent byte for byte decides what is answered, however the network cuts it."""

import json
import os
import socket

import pytest
import trio
from trio.testing import wait_all_tasks_blocked

from tests.http.harness import App, answer, responses, serving, without_changing
from wfserve.http.head import SHORT
from wfserve.http.refusal import OwnAnswers

G = b"GET /echo HTTP/1.1\r\nHost: x\r\n"
P = b"POST /echo HTTP/1.1\r\nHost: x\r\n"
CHUNKED = P + b"Transfer-Encoding: chunked\r\n\r\n"
OPEN, CLOSED = False, True

GOOD = {
    "a request": (G + b"\r\n", [(200, b"GET ")], OPEN),
    "a body": (P + b"Content-Length: 3\r\n\r\nabc", [(200, b"POST abc")], OPEN),
    "an empty body": (P + b"Content-Length: 0\r\n\r\n", [(200, b"POST ")], OPEN),
    "blanks after a length": (P + b"Content-Length: 3 \r\n\r\nabc", [(200, b"POST abc")], OPEN),
    "chunks": (CHUNKED + b"3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n", [(200, b"POST abcd")], OPEN),
    "chunks with extensions and trailers": (
        CHUNKED + b"0A;a=b\r\n0123456789\r\n0 ;x\r\nx-t: 1\r\n\r\n",
        [(200, b"POST 0123456789")],
        OPEN,
    ),
    "empty lines before": (b"\r\n\r\n" + G + b"\r\n", [(200, b"GET ")], OPEN),
    "close": (G + b"Connection: foo, Close\r\n\r\n", [(200, b"GET ")], CLOSED),
    "1.0": (b"GET /echo HTTP/1.0\r\n\r\n", [(200, b"GET ")], CLOSED),
    "1.0 kept alive": (b"GET /echo HTTP/1.0\r\nConnection: keep-alive\r\n\r\n", [(200, b"GET ")], OPEN),
    "1.0 streamed": (
        b"GET /parts HTTP/1.0\r\nConnection: keep-alive\r\n\r\n",
        [(200, b"one two")],
        CLOSED,
    ),
    "streamed": (b"GET /parts HTTP/1.1\r\nHost: x\r\n\r\n", [(200, b"one two")], OPEN),
    "no content": (b"GET /empty HTTP/1.1\r\nHost: x\r\n\r\n", [(204, b"")], OPEN),
    "an upgrade": (
        G + b"Connection: Upgrade\r\nUpgrade: h2c\r\nContent-Length: 1\r\n\r\nx" + G + b"\r\n",
        [(200, b"GET x"), (200, b"GET ")],
        OPEN,
    ),
    "pipelined": (
        G + b"\r\n" + CHUNKED + b"1\r\na\r\n0\r\n\r\n" + P + b"Content-Length: 1\r\n\r\nb" + G + b"\r\n",
        [(200, b"GET "), (200, b"POST a"), (200, b"POST b"), (200, b"GET ")],
        OPEN,
    ),
    "pipelined after a close": (G + b"Connection: close\r\n\r\n" + G + b"\r\n", [(200, b"GET ")], CLOSED),
    "an absolute target": (
        b"GET http://other:1/echo?q HTTP/1.1\r\nHost: x\r\n\r\n",
        [(200, b"GET ")],
        OPEN,
    ),
    "the asterisk": (b"OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n", [(200, b"OPTIONS ")], OPEN),
    "a body into a buffer": (
        b"PUT /direct HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nabcde" + G + b"\r\n",
        [(200, b"abcde"), (200, b"GET ")],
        OPEN,
    ),
    "a body that is not read": (
        b"POST /ignore HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n123",
        [(200, b"ignored")],
        CLOSED,
    ),
    "obsolete text in a value": (G + b"x: \xff\r\n\r\n", [(200, b"GET ")], OPEN),
}

BAD = {
    "both lengths": (P + b"Content-Length: 3\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "both lengths, turned": (P + b"Transfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n", 400),
    "two lengths": (P + b"Content-Length: 3\r\nContent-Length: 4\r\n\r\nabc", 400),
    "a list of lengths": (P + b"Content-Length: 3, 4\r\n\r\nabc", 400),
    "a signed length": (P + b"Content-Length: +3\r\n\r\nabc", 400),
    "a negative length": (P + b"Content-Length: -3\r\n\r\nabc", 400),
    "a hexadecimal length": (P + b"Content-Length: 0x3\r\n\r\nabc", 400),
    "no length": (P + b"Content-Length:\r\n\r\nabc", 400),
    "a huge length": (P + b"Content-Length: 99999999999999999999\r\n\r\nabc", 400),
    "a bare LF": (G + b"a: b\nc: d\r\n\r\n", 400),
    "only bare LFs": (b"GET /echo HTTP/1.1\nHost: x\n\n", 400),
    "a bare CR": (G + b"a: b\rc\r\n\r\n", 400),
    "a folded line": (G + b"a: b\r\n c\r\n\r\n", 400),
    "NUL in a value": (G + b"a: b\0c\r\n\r\n", 400),
    "NUL in a name": (G + b"a\0: b\r\n\r\n", 400),
    "a control character": (G + b"a: \x01\r\n\r\n", 400),
    "a blank before the colon": (G + b"a : b\r\n\r\n", 400),
    "a name that is none": (G + b"a(b: c\r\n\r\n", 400),
    "no name": (G + b": c\r\n\r\n", 400),
    "no colon": (G + b"abc\r\n\r\n", 400),
    "a blank before the first name": (b"GET /echo HTTP/1.1\r\n Host: x\r\n\r\n", 400),
    "no host": (b"GET /echo HTTP/1.1\r\n\r\n", 400),
    "two hosts": (G + b"Host: x\r\n\r\n", 400),
    "a host that is none": (b"GET /echo HTTP/1.1\r\nHost: a/b\r\n\r\n", 400),
    "an absolute target with a user": (b"GET http://u@x/ HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a fragment": (b"GET /echo#a HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "a relative target": (b"GET echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "two blanks": (b"GET  /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "0.9": (b"GET /echo\r\n\r\n", 400),
    "2.0": (b"GET /echo HTTP/2.0\r\nHost: x\r\n\r\n", 400),
    "the preface of HTTP/2": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
    "RTSP": (b"SETUP /echo RTSP/1.0\r\n\r\n", 400),
    "a lower-case method": (b"get /echo HTTP/1.1\r\nHost: x\r\n\r\n", 400),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    "an unknown method": (b"FROBNICATE /echo HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "a tunnel": (b"CONNECT x:1 HTTP/1.1\r\nHost: x\r\n\r\n", 501),
    "an unknown coding": (P + b"Transfer-Encoding: gzip\r\n\r\n", 501),
    "an unknown coding before": (P + b"Transfer-Encoding: gzip, chunked\r\n\r\n", 501),
    "chunked is not last": (P + b"Transfer-Encoding: chunked, gzip\r\n\r\n", 400),
    "chunked twice": (P + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400),
    "chunked under 1.0": (b"POST /echo HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    "another expectation": (P + b"Expect: more\r\n\r\n", 417),
    "a long head": (G + b"a: " + b"b" * 1100 + b"\r\n\r\n", 431),
    "a head without end": (G + b"a: " + b"b" * 1100, 431),
    "many headers": (G + b"a: b\r\n" * 50 + b"\r\n", 431),
    "a chunk size that is none": (CHUNKED + b"x\r\n", 400),
    "no chunk size": (CHUNKED + b"\r\n", 400),
    "a signed chunk size": (CHUNKED + b"+1\r\na\r\n", 400),
    "a hexadecimal prefix": (CHUNKED + b"0x1\r\na\r\n", 400),
    "a blank before a chunk size": (CHUNKED + b" 1\r\na\r\n", 400),
    "a huge chunk": (CHUNKED + b"f" * 17 + b"\r\n", 400),
    "a chunk size that ends with LF": (CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    "a chunk that is longer than said": (CHUNKED + b"1\r\nab\r\n", 400),
    "a chunk that ends with LF": (CHUNKED + b"1\r\na\n0\r\n\r\n", 400),
    "an endless extension": (CHUNKED + b"1;" + b"a" * 2000, 400),
    "a trailer that is none": (CHUNKED + b"0\r\nabc\r\n\r\n", 400),
    "a body over the limit": (P + b"Content-Length: 5000\r\n\r\n", 413),
    "chunks over the limit": (CHUNKED + b"3e8\r\n" + b"x" * 1000 + b"\r\n1\r\nx\r\n0\r\n\r\n", 413),
}
LIMITS = {"max_head_bytes": 1024, "max_headers": 40, "max_body_bytes": 1000}


def cuts(raw):
    """Ways to send `raw`."""
    return {"whole": [raw], "byte by byte": [raw[i : i + 1] for i in range(len(raw))]}


@pytest.mark.parametrize("name", GOOD)
async def test_good_requests(name, autojump_clock):
    raw, expected, closed = GOOD[name]
    said = {}
    async with serving(**LIMITS) as server:
        for way, pieces in cuts(raw).items():
            received, ended = await server.talk(*pieces)
            assert [(status, body) for status, _, body in responses(received)] == expected, way
            assert ended is closed, way
            said[way] = without_changing(received)
    assert said["whole"] == said["byte by byte"]


@pytest.mark.parametrize(
    "name", ["a long head", "another expectation", "a body over the limit", "its own failure"]
)
async def test_what_the_server_answers_itself_is_counted_and_has_its_headers(name, autojump_clock):
    raw, expected = BAD.get(name, (b"GET /error HTTP/1.1\r\nHost: x\r\n\r\n", 500))
    counted = []
    async with serving(own=OwnAnswers([(b"x-own", b"1")], counted.append), **LIMITS) as server:
        said, _ = await server.talk(raw)
        ((status, headers, _),) = responses(said)
        assert (status, dict(headers)[b"x-own"], counted) == (expected, b"1", [expected])
        said, _ = await server.talk(G + b"\r\n")
        ((_, headers, _),) = responses(said)
        assert (b"x-own" in dict(headers), counted) == (False, [expected])


@pytest.mark.parametrize("name", BAD)
async def test_bad_requests(name, autojump_clock):
    raw, status = BAD[name]
    said = {}
    async with serving(**LIMITS) as server:
        for way, pieces in cuts(raw).items():
            received, ended = await server.talk(*pieces)
            assert ended, way
            ((got, headers, body),) = responses(received)
            assert got == status, way
            assert dict(headers)[b"connection"] == b"close"
            assert json.loads(body)["code"] == status
            assert body == json.dumps(json.loads(body), indent=2).encode() + b"\n"
            said[way] = without_changing(received)
    assert said["whole"] == said["byte by byte"]


async def test_the_message_of_a_bad_request(autojump_clock):
    async with serving() as server:
        received, _ = await server.talk(b"\0")
    (_, _, body) = responses(received)[0]
    assert json.loads(body) == {
        "code": 400,
        "type": "BadRequestException",
        "message": "Invalid HTTP message.",
    }


async def test_a_bad_request_after_a_good_one(autojump_clock):
    async with serving() as server:
        received, ended = await server.talk(G + b"\r\n" + b"GET / HTTP/1.1\r\n\r\n" + G + b"\r\n")
    assert [status for status, _, _ in responses(received)] == [200, 400]
    assert ended


async def test_head_has_the_headers_and_no_body(autojump_clock):
    async with serving() as server:
        received, ended = await server.talk(b"HEAD /echo HTTP/1.1\r\nHost: x\r\n\r\n" + G + b"\r\n")
    first, second = responses(received, ["HEAD", "GET"])
    assert (first[0], dict(first[1])[b"content-length"], first[2]) == (200, b"5", b"")
    assert second[2] == b"GET "
    assert not ended


@pytest.mark.parametrize("path", [b"/error", b"/silent", b"/split"])
async def test_an_application_that_fails(path, autojump_clock, caplog):
    async with serving() as server:
        received, ended = await server.talk(b"GET %b HTTP/1.1\r\nHost: x\r\n\r\n" % path)
        assert await server.talk(G + b"\r\n") != (b"", True)
    ((status, _, body),) = responses(received)
    assert (status, json.loads(body)["type"]) == (500, "InternalServerException")
    assert b"secret" not in received
    assert ended


async def test_an_application_that_fails_late_is_cut_off(autojump_clock, caplog):
    async with serving() as server:
        received, ended = await server.talk(b"GET /late HTTP/1.1\r\nHost: x\r\n\r\n")
    assert received.endswith(b"5\r\nbegun\r\n")
    assert ended
    assert "secret" in caplog.text


async def test_100_continue_is_said_when_the_body_is_wanted(autojump_clock):
    async with serving() as server:
        head = P + b"Expect: 100-Continue\r\nContent-Length: 3\r\n\r\n"
        with await server.connect() as client:
            await client.send(head)
            assert await client.recv(100) == b"HTTP/1.1 100 Continue\r\n\r\n"
            await client.send(b"abc")
            assert (await client.recv(1000)).endswith(b"POST abc")
        received, ended = await server.talk(head.replace(b"/echo", b"/ignore"))
        assert [status for status, _, _ in responses(received)] == [200]  # refused before it was sent
        assert ended
        received, _ = await server.talk(head + b"abc")
        assert [status for status, _, _ in responses(received)] == [200]


async def test_the_scope(autojump_clock):
    async with serving() as server:
        await server.talk(b"GET /a%20b%C3%A4?q=%20 HTTP/1.1\r\nHOST: x\r\nX-Y: Z \r\n\r\n")
        (scope,) = server.app.scopes
        port = server.address[1]
    assert scope["client"][0] == "127.0.0.1"
    assert scope["client"][1] != port
    expected = {
        "type": "http",
        "http_version": "1.1",
        "method": "GET",
        "scheme": "http",
        "path": "/a bä",
        "raw_path": b"/a%20b%C3%A4",
        "query_string": b"q=%20",
        "root_path": "",
        "headers": [(b"host", b"x"), (b"x-y", b"Z")],
        "server": ("127.0.0.1", port),
    }
    assert {key: scope[key] for key in expected} == expected
    assert list(scope["extensions"]) == ["wfserve.gone", "wfserve.known"]  # a body would add another


async def test_what_is_known_of_a_head_is_known_of_its_like_alone(autojump_clock):
    name = os.urandom(8).hex().encode()  # heads are remembered beyond a server
    head = b"GET /known HTTP/1.1\r\nHost: x\r\nX-A: %b\r\n\r\n" % name
    long = head[:-2] + b"X-Long: %b\r\n\r\n" % bytes(b"y" * SHORT)
    async with serving() as server:
        received, _ = await server.talk(head + head + head.replace(b"X-A", b"X-B") + long + long + head)
        again, _ = await server.talk(head)
    assert [body for *_, body in responses(received + again)] == [b"1", b"2", b"1", b"1", b"1", b"3", b"4"]


async def test_what_an_application_does_to_its_scope_is_its_own(autojump_clock):
    head, seen = b"GET /?q HTTP/1.1\r\nHost: x\r\n\r\n", []

    async def spoil(scope, receive, send):
        seen.append({**scope, "extensions": sorted(scope["extensions"])})
        scope.update(path="/spoilt", client=None, root_path="/", added=True)
        scope["extensions"].clear()
        await answer(send, b"")

    async with serving(spoil) as server:
        await server.talk(head + head)
    first, again = seen
    assert again == first


async def test_a_body_is_handed_over_whole_only_if_it_has_arrived(autojump_clock):
    head = b"POST /arrived HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\n"
    async with serving() as server:
        received, _ = await server.talk(head + b"abc" + head + b"def")
        with await server.connect() as client:
            await client.send(head + b"gh")
            await wait_all_tasks_blocked()
            await client.send(b"i")
            client.shutdown(socket.SHUT_WR)
            late = await client.recv(65536)
    bodies = [body for *_, body in responses(received + late)]
    assert bodies == [b"whole abc", b"whole def", b"ghi"]


async def test_an_absolute_target_overrules_the_host(autojump_clock):
    async with serving() as server:
        await server.talk(b"GET http://other:1?q HTTP/1.1\r\nHost: x\r\n\r\n")
    (scope,) = server.app.scopes
    assert (scope["path"], scope["query_string"]) == ("/", b"q")
    assert scope["headers"] == [(b"host", b"other:1")]


async def test_a_unix_socket(tmp_path, autojump_clock):
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "socket"))
    async with serving(listener=listener) as server:
        received, ended = await server.talk(P + b"Content-Length: 3\r\n\r\nabc")
        with await server.connect() as client:  # leaving is noticed here as well
            await client.send(G.replace(b"echo", b"wait") + b"\r\n")
            await server.app.waiting.wait()
        await server.app.gone.wait()
    assert responses(received)[0][2] == b"POST abc"
    assert not ended
    assert server.app.scopes[0]["server"] == (str(tmp_path / "socket"), None)
    assert server.app.scopes[0]["client"] is None


async def test_a_small_response_is_sent_at_once(autojump_clock, monkeypatch):
    sent = []
    original = socket.socket.send

    def send(sock, data, *flags):
        sent.append(bytes(data))
        return original(sock, data, *flags)

    async with serving() as server:
        with await server.connect() as client:
            await client.send(G + b"\r\n")
            await server_has_answered(client)
            monkeypatch.setattr(socket.socket, "send", send)
            await client.send(G + b"\r\n")
            await server_has_answered(client)
    assert [data for data in sent if data.startswith(b"HTTP")] == [sent[-1]]


async def server_has_answered(client):
    received = b""
    while not received.endswith(b"GET "):
        received += await client.recv(1000)


async def test_bodies_of_every_size_arrive_in_the_buffer(autojump_clock):
    async with serving() as server:
        for size in (1, 100, 65_536, 3_000_000):
            body = bytes(range(256)) * (size // 256 + 1)
            body = body[:size]
            head = b"PUT /direct HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % size
            with await server.connect() as client:
                stream = trio.SocketStream(client)
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(stream.send_all, head + body)
                    received = b""
                    while not received.endswith(body):
                        received += await stream.receive_some()


async def test_an_application_that_breaks_asgi(autojump_clock, caplog):
    class Wrong(App):
        async def echo(self, scope, receive, send):
            await answer(send, b"x")
            await answer(send, b"again")

    async with serving(Wrong()) as server:
        received, _ = await server.talk(G + b"\r\n")
    assert [body for _, _, body in responses(received)] == [b"x"]
    assert "may not send" in caplog.text
