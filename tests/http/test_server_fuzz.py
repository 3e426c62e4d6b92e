"""Whatever arrives, the server answers or closes, and takes nothing for a request that h11 refuses."""

from itertools import pairwise

import h11
import pytest
import trio
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.http.harness import responses, serving, without_changing
from wfserve.errors import WfserveError
from wfserve.http.chunked import Chunks
from wfserve.http.head import parse, unsound
from wfserve.http.refusal import BadMessageError

TOKENS = [
    *(b"GET ", b"POST ", b"HEAD ", b"/echo", b"/parts", b"/direct", b"/error", b"*", b"http://h/"),
    *(
        b" HTTP/1.1",
        b" HTTP/1.0",
        b"\r\n",
        b"\r\n",
        b"\r\n\r\n",
        b"\r",
        b"\n",
        b"\0",
        b" ",
        b"\t",
        b":",
        b"#",
    ),
    *(b"Host: x\r\n", b"Host: x\r\n", b"Content-Length: 3\r\n", b"Content-Length: "),
    *(b"Transfer-Encoding: chunked\r\n", b"Connection: close\r\n", b"Connection: keep-alive\r\n"),
    *(b"Expect: 100-continue\r\n", b"Upgrade: x\r\n", b"0\r\n\r\n", b"3\r\nabc\r\n", b"1", b"f" * 16, b"abc"),
]
SOUP = st.lists(st.one_of(st.sampled_from(TOKENS), st.binary(max_size=3)), max_size=25).map(b"".join)
BODY = st.binary(max_size=40)


def chunked(body, sizes):
    out, rest = b"", body
    for size in sizes:
        if rest[:size]:
            out += b"%x\r\n%b\r\n" % (len(rest[:size]), rest[:size])
            rest = rest[size:]
    return out + (b"%X\r\n%b\r\n" % (len(rest), rest) if rest else b"") + b"0\r\n\r\n"


@st.composite
def requests(draw):
    """A valid request to /echo, and its method and body."""
    method = draw(st.sampled_from([b"POST", b"PUT", b"GET"]))
    body = draw(BODY)
    head = b"%b /echo HTTP/1.1\r\nHost: x\r\n" % method
    if draw(st.booleans()):
        return head + b"Content-Length: %d\r\n\r\n%b" % (len(body), body), method, body
    sizes = draw(st.lists(st.integers(1, 9), max_size=5))
    return head + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(body, sizes), method, body


def cut(raw, places):
    """Cut `raw` at `places`, which are taken modulo its length."""
    edges = sorted({0, len(raw), *(place % max(1, len(raw)) for place in places)})
    return [raw[a:b] for a, b in pairwise(edges)]


PLACES = st.lists(st.integers(0, 1 << 16), max_size=6)


@pytest.fixture(autouse=True)
def quiet(caplog):
    """What applications fail with is logged, as it should be."""
    caplog.set_level("CRITICAL")


@given(raw=SOUP, places=PLACES)
@settings(max_examples=250, deadline=None)
def test_soup(raw, places):
    async def main():
        async with serving(max_head_bytes=256) as server:
            with trio.fail_after(10):
                whole, closed = await server.talk(raw)
                pieces, also_closed = await server.talk(*cut(raw, places))
            assert server.connections in (0, 1, 2)
        return whole, closed, pieces, also_closed

    whole, closed, pieces, also_closed = trio.run(main)
    assert without_interim(whole) == without_interim(pieces)
    assert closed == also_closed


def without_interim(raw):
    """Whether a 100 is sent depends on what has arrived with the head."""
    return without_changing(raw).replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")


@given(made=st.lists(requests(), min_size=1, max_size=4), places=PLACES)
@settings(max_examples=100, deadline=None)
def test_valid_requests_however_they_are_cut(made, places):
    async def main():
        async with serving() as server:
            with trio.fail_after(10):
                return await server.talk(*cut(b"".join(raw for raw, _, _ in made), places))

    said, closed = trio.run(main)
    assert [(status, body) for status, _, body in responses(said)] == [
        (200, b"%b %b" % (method, body)) for _, method, body in made
    ]
    assert not closed


def accepted_by_h11(raw):
    """h11's verdict: whether it would hand a head to an application."""
    reader = h11.Connection(h11.SERVER)
    try:
        reader.receive_data(raw)
        return isinstance(reader.next_event(), h11.Request)
    except h11.RemoteProtocolError:
        return False


def accepted(raw):
    try:
        parse(raw, 100)
    except WfserveError:
        return False
    return True


HEADS = st.builds(
    lambda line, headers: line + b"\r\n" + b"".join(headers) + b"\r\n",
    st.sampled_from(
        [b"GET / HTTP/1.1", b"POST /a?b HTTP/1.0", b"GET http://a/ HTTP/1.1", b"GET  / HTTP/1.1"]
    ),
    st.lists(
        st.one_of(
            st.sampled_from([token for token in TOKENS if token.endswith(b"\r\n") and b":" in token]),
            st.builds(
                lambda name, colon, value: name + colon + value + b"\r\n",
                st.binary(min_size=1, max_size=3),
                st.sampled_from([b":", b": ", b" :", b":\t"]),
                st.binary(max_size=4),
            ),
        ),
        max_size=5,
    ),
).filter(lambda raw: raw.index(b"\r\n\r\n") == len(raw) - 4)


@given(raw=HEADS)
@settings(max_examples=500, deadline=None)
def test_no_head_is_accepted_that_h11_refuses(raw):
    if accepted(raw):
        assert accepted_by_h11(raw)
        assert not any(unsound(raw[:end]) for end in range(1, len(raw) - 3))


@given(data=st.binary(max_size=60) | SOUP)
@settings(max_examples=500, deadline=None)
def test_chunks_are_a_body_or_refused(data):
    """The same, whole or byte by byte."""
    assert decoded([data]) == decoded([data[i : i + 1] for i in range(len(data))])


@given(body=BODY, sizes=st.lists(st.integers(1, 9), max_size=5), rest=st.binary(max_size=5), places=PLACES)
def test_chunks_come_back(body, sizes, rest, places):
    assert decoded(cut(chunked(body, sizes) + rest, places)) == (body, rest)


def decoded(pieces):
    chunks, body, left = Chunks(), b"", b""
    try:
        for piece in pieces:
            left += piece
            if not chunks.done:
                part, left = chunks.decode(left)
                body += part
    except BadMessageError:
        return None
    return body, left if chunks.done else None
