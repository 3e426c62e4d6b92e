"""What hypercorn leaves to the application is done before it; the rest goes through as it is."""

import pytest

from wfserve.http.hypercorn import under_hypercorn

KEPT = (b"connection", b"keep-alive")
CLOSED = (b"connection", b"close")


async def answered(headers=(), *, scope_type="http", version="1.1", answer_headers=()):
    """Return what is sent where the application answers 200, and whether it has run."""
    ran, messages = [], []

    async def app(scope, receive, send):
        ran.append(scope)
        await send({"type": f"{scope['type']}.response.start", "status": 200, "headers": [*answer_headers]})
        await send({"type": f"{scope['type']}.response.body", "body": b"x"})

    async def send(message):
        messages.append(message)

    scope = {"type": scope_type, "http_version": version, "headers": list(headers)}
    await under_hypercorn(app)(scope, None, send)
    return messages, bool(ran)


@pytest.mark.parametrize("expectation", [b"a miracle", b"", b"100-continue, more"])
async def test_what_cannot_be_met_is_417(expectation):
    (start, _), ran = await answered([(b"expect", expectation)])
    assert not ran
    assert start["status"] == 417
    assert CLOSED in start["headers"]


@pytest.mark.parametrize("headers", [[], [(b"expect", b"100-Continue")], [(b"expected", b"x")]])
async def test_what_can_be_met_runs(headers):
    (start, body), ran = await answered(headers)
    assert ran
    assert (start["status"], start["headers"]) == (200, [KEPT])
    assert body == {"type": "http.response.body", "body": b"x"}


@pytest.mark.parametrize(
    ("version", "given", "sent"),
    [
        ("1.1", [(b"a", b"b")], [(b"a", b"b"), KEPT]),
        ("1.1", [CLOSED], [CLOSED]),
        ("1.0", [], []),
        ("2", [], []),  # RFC 9113, 8.2.2: no such header there
    ],
)
async def test_where_a_connection_stays_open(version, given, sent):
    (start, _), _ = await answered(version=version, answer_headers=given)
    assert start["headers"] == sent


async def test_other_scopes_pass():
    (start, _), ran = await answered([(b"expect", b"x")], scope_type="lifespan")
    assert ran
    assert start == {"type": "lifespan.response.start", "status": 200, "headers": []}
