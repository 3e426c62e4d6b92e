"""Errors look the same wherever they come from, and nothing of the inside shows."""

import logging

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve import errors
from wfserve.errors import BadRequestError, InternalError, ServiceUnavailableError, WfserveError
from wfserve.http.respond import (
    MAX_REQUEST_ID,
    as_wfserve_error,
    common_headers,
    error_headers,
    pretty,
    request_id,
)


def test_json_as_torchserve_writes_it():
    assert pretty({"code": 404, "message": "é"}) == '{\n  "code": 404,\n  "message": "é"\n}\n'.encode()


@pytest.mark.parametrize("value", [b"a", b"0-9 ~", b"x" * MAX_REQUEST_ID])
def test_a_client_names_its_request(value):
    assert request_id([(b"host", b"x"), (b"x-request-id", value)]) == value


@pytest.mark.parametrize("value", [b"", b"x" * (MAX_REQUEST_ID + 1), b"\xff", b"a\r\nb: c", b"\0", b"\x7f"])
def test_a_name_that_cannot_stand_in_a_header_is_replaced(value):
    made = request_id([(b"x-request-id", value)])
    assert made != value
    assert len(made) == 36
    assert made != request_id([])  # a new one each time


@given(st.lists(st.tuples(st.sampled_from([b"x-request-id", b"other"]), st.binary(max_size=300))))
def test_an_identity_can_always_stand_in_a_header(headers):
    identity = request_id(headers)
    assert identity
    assert all(0x20 <= byte < 0x7F for byte in identity)


@pytest.mark.parametrize(("status", "closes"), [(200, False), (399, False), (400, True), (503, True)])
def test_headers_of_every_response(status, closes):
    headers = common_headers(status, b"me")
    assert (b"x-request-id", b"me") in headers
    assert (b"pragma", b"no-cache") in headers
    assert ((b"connection", b"close") in headers) is closes
    assert common_headers(200, b"other")[0] == (b"x-request-id", b"other")  # nothing is left of the last


def test_our_errors_are_told_as_they_are(caplog):
    error = BadRequestError("what is wrong")
    assert as_wfserve_error(error, b"me") is error
    assert as_wfserve_error(ExceptionGroup("", [ExceptionGroup("", [error])]), b"me") is error
    assert caplog.records == []


@pytest.mark.parametrize(
    "failure",
    [
        ValueError("secret"),
        KeyError("secret"),
        ExceptionGroup("secret", [ValueError("secret")]),
        ExceptionGroup("secret", [BadRequestError("secret"), BadRequestError("secret")]),
    ],
)
def test_anything_else_is_logged_and_not_told(failure, caplog):
    error = as_wfserve_error(failure, b"me")
    assert type(error) is InternalError
    assert "secret" not in error.message
    assert "me" in error.message
    (record,) = caplog.records
    assert (record.levelno, record.getMessage()) == (logging.ERROR, "request me failed")
    assert "secret" in caplog.text


def test_retry_after_is_whole_seconds_rounded_up():
    assert error_headers(BadRequestError("x")) == []
    for seconds, header in ((1, b"1"), (0.2, b"1"), (2.5, b"3"), (0, b"0")):
        assert error_headers(ServiceUnavailableError("x", retry_after=seconds)) == [(b"retry-after", header)]


ERRORS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, WfserveError)]


@pytest.mark.parametrize("kind", ERRORS)
def test_every_error_has_a_status_a_type_and_a_body(kind):
    error = kind() if kind is errors.MethodNotAllowedError else kind("a message")
    assert 400 <= error.status <= 599
    body = orjson.loads(pretty(error.body()))
    assert body == {"code": error.status, "type": error.type, "message": error.message}
    assert error.type.endswith("Exception")
