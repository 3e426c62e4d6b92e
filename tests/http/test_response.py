"""However an application describes its response, the client can tell where it ends."""

import h11
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.http.response import Response

DATE = b"date: Thu, 01 Jan 1970 00:00:00 GMT\r\n"


def wire(parts, *, method="GET", version="1.1", keep_alive=True, status=200, headers=()):
    """Return what a response of `parts` looks like, and whether its connection can carry another."""
    response = Response(method, version, keep_alive=keep_alive)
    whole = len(parts[0]) if len(parts) == 1 else None
    said = response.head(status, headers, whole, DATE)
    for number, part in enumerate(parts, start=1):
        said += b"".join(response.part(part, more=number < len(parts)))
    return said, response.keep_alive


def read(said, method="GET", version="1.1"):
    """Return status, headers and body as h11 reads them, and whether it waits for the connection's end."""
    reader = h11.Connection(h11.CLIENT)
    reader.send(h11.Request(method=method, target="/", headers=[("host", "x")], http_version=version))
    reader.send(h11.EndOfMessage())
    reader.receive_data(said)
    response, body, until_closed = reader.next_event(), b"", False
    while type(event := reader.next_event()) is not h11.EndOfMessage:
        if event is h11.NEED_DATA:
            until_closed = True
            reader.receive_data(b"")
        else:
            body += bytes(event.data)
    return response.status_code, dict(response.headers), body, until_closed


@given(
    parts=st.lists(st.binary(max_size=20), min_size=1, max_size=5),
    version=st.sampled_from(["1.0", "1.1"]),
    keep_alive=st.booleans(),
    declared=st.booleans(),
)
def test_the_body_arrives(parts, version, keep_alive, declared):
    body = b"".join(parts)
    headers = [(b"content-length", b"%d" % len(body))] if declared else []
    said, kept = wire(parts, version=version, keep_alive=keep_alive, headers=headers)
    status, got, received, until_closed = read(said)
    assert (status, received) == (200, body)
    assert not (kept and until_closed)
    assert kept == (keep_alive and not until_closed)
    assert got[b"connection"] == (b"keep-alive" if kept else b"close")
    assert got[b"date"]


@pytest.mark.parametrize("method", ["GET", "HEAD"])
@pytest.mark.parametrize("status", [204, 304])
def test_statuses_without_a_body(method, status):
    said, kept = wire([b"dropped"], method=method, status=status)
    assert kept
    assert said.endswith(b"GMT\r\nconnection: keep-alive\r\n\r\n")


def test_head_keeps_the_length_and_drops_the_body():
    said, kept = wire([b"abc"], method="HEAD", headers=[(b"content-length", b"3")])
    assert kept
    assert said.endswith(b"content-length: 3\r\nconnection: keep-alive\r\n\r\n")


def test_a_body_that_is_too_short_costs_the_connection():
    _, kept = wire([b"ab", b""], headers=[(b"content-length", b"3")])
    assert not kept


def test_a_body_that_is_too_long_is_refused():
    with pytest.raises(ValueError, match="longer"):
        wire([b"abcd"], headers=[(b"content-length", b"3")])


@pytest.mark.parametrize(
    "header",
    [
        (b"a b", b""),
        (b"", b""),
        (b"a:", b""),
        (b"a\r\nb", b""),
        (b"a", b"b\r\nc: d"),
        (b"a", b"b\nc"),
        (b"a", b"b\rc"),
        (b"a", b"\0"),
        (b"a", b"b" * 1000 + b"\n"),
        (b"date", b"then\r\nb: c"),
        (b"X-Request-Id", b"b\r\nc: d"),
        (b"x-request-id", b"b\r\nc: d"),
        (b"content-length", b"-1"),
        (b"content-length", b"x"),
    ],
)
def test_headers_that_are_none(header):
    with pytest.raises(ValueError, match=r"header|content-length"):
        wire([b""], headers=[header])


@pytest.mark.parametrize("status", [0, 99, 101, 1000])
def test_statuses_that_are_none(status):
    with pytest.raises(ValueError, match="status"):
        wire([b""], status=status)


def test_framing_is_the_servers():
    said, kept = wire(
        [b"abc"], headers=[(b"Transfer-Encoding", b"gzip"), (b"Connection", b"keep-alive, CLOSE")]
    )
    _, headers, body, _ = read(said)
    assert b"transfer-encoding" not in headers
    assert (headers[b"content-length"], headers[b"connection"], body) == (b"3", b"close", b"abc")
    assert not kept


def test_an_unknown_status_has_no_phrase():
    assert wire([b""], status=299)[0].startswith(b"HTTP/1.1 299 \r\n")


def test_an_applications_date_stands():
    said, _ = wire([b""], headers=[(b"date", b"then")])
    assert said.count(b"date:") == 1
    assert b"date: then\r\n" in said


@pytest.mark.parametrize("value", [b"1", b"1" * 1000], ids=["remembered", "too long for that"])
def test_headers_that_repeat_are_the_same_each_time(value):
    headers = [(b"X-A", value), (b"x-a", b"2"), (b"X-Request-Id", value)]
    first, again = [wire([b""], headers=headers)[0] for _ in range(2)]
    assert first == again
    assert b"\r\nx-a: %b\r\nx-a: 2\r\nx-request-id: %b\r\n" % (value, value) in first
