"""The configured headers, word for word, on what does not set them itself."""

import pytest

from wfserve.config import Config
from wfserve.http.cors import adding, cors_headers, is_preflight

ORIGIN = (b"access-control-allow-origin", b"https://a.example")


def test_none_by_default():
    assert cors_headers(Config()) == []


def test_each_setting_is_a_header_of_its_own():
    assert cors_headers(Config(cors_allowed_origin="https://a.example")) == [ORIGIN]
    config = Config(cors_allowed_methods="GET, POST", cors_allowed_headers="X-Custom")
    assert cors_headers(config) == [
        (b"access-control-allow-methods", b"GET, POST"),
        (b"access-control-allow-headers", b"X-Custom"),
    ]


@pytest.mark.parametrize(
    ("own", "sent"),
    [
        ([(b"a", b"b")], [(b"a", b"b"), ORIGIN]),
        ([(b"Access-Control-Allow-Origin", b"*")], [(b"Access-Control-Allow-Origin", b"*")]),
    ],
)
async def test_what_a_response_sets_itself_stays(own, sent):
    messages = []

    async def send(message):
        messages.append(message)

    send_with_headers = adding([ORIGIN], send)
    start = {"type": "http.response.start", "status": 200, "headers": own}
    body = {"type": "http.response.body", "body": b"x"}
    await send_with_headers(start)
    await send_with_headers(body)
    assert messages == [{**start, "headers": sent}, body]


@pytest.mark.parametrize(
    ("method", "names", "expected"),
    [
        ("OPTIONS", [b"origin", b"access-control-request-method"], True),
        ("OPTIONS", [b"origin"], False),
        ("OPTIONS", [b"access-control-request-method"], False),
        ("POST", [b"origin", b"access-control-request-method"], False),
    ],
)
def test_what_is_a_preflight(method, names, expected):
    assert is_preflight({"method": method, "headers": [(name, b"x") for name in names]}) is expected
