"""What each content type of a client's body becomes."""

from __future__ import annotations

import contextlib
import json
from urllib.parse import quote_plus

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.child.fault import NodeError
from wfserve.child.form import parameters


def decoded(content_type: str, body: bytes, *, decode: bool = True) -> dict[str, object]:
    found = parameters(content_type, memoryview(bytearray(body)), bytearray, decode=decode)
    return {parameter.name: parameter.value for parameter in found}


@pytest.mark.parametrize(
    ("content_type", "body", "value"),
    [
        ("", b"\x00\x01", bytearray(b"\x00\x01")),
        ("", b"", bytearray()),
        ("application/octet-stream", b"[1]", bytearray(b"[1]")),
        ("application/json", b'{"a": [1, null]}', {"a": [1, None]}),
        ("Application/JSON; charset=utf-8", b"[1]", [1]),
        ("application/json", b"18446744073709551617", 2**64 + 1),
        ("application/json", b"{not json", bytearray(b"{not json")),
        ("application/json", b"", bytearray()),
        ("application/json", b"[" * 100_000, bytearray(b"[" * 100_000)),
        ("application/json", b"9" * 5000, bytearray(b"9" * 5000)),
        ("text/plain", "grüße".encode(), "grüße"),
        ("text/csv; charset=utf-8", b"a,b", "a,b"),
        ("text/plain", b"\xff\xfe", bytearray(b"\xff\xfe")),
        ("image/png", b"\x89PNG", bytearray(b"\x89PNG")),
    ],
)
def test_raw_body(content_type: str, body: bytes, value: object) -> None:
    found = decoded(content_type, body)
    assert found == {"body": value}
    assert type(found["body"]) is type(value)


@pytest.mark.parametrize("content_type", ["application/json", "text/plain"])
def test_decoding_can_be_switched_off(content_type: str) -> None:
    assert decoded(content_type, b"[1]", decode=False) == {"body": bytearray(b"[1]")}


@pytest.mark.parametrize(
    ("body", "fields"),
    [
        (b"a=1&b=two+words&a=%ff", {"a": bytearray(b"\xff"), "b": bytearray(b"two words")}),
        (b'{"x":1}', {'{"x":1}': bytearray()}),
        (b"", {}),
        (b"&&=v", {"": bytearray(b"v")}),
    ],
)
def test_urlencoded_fields_have_no_body(body: bytes, fields: dict[str, bytearray]) -> None:
    assert decoded("application/x-www-form-urlencoded", body) == fields


@given(st.dictionaries(st.text(st.characters(exclude_categories=["Cs"]), min_size=1), st.binary()))
def test_urlencoded_round_trip(fields: dict[str, bytes]) -> None:
    body = "&".join(f"{quote_plus(name)}={quote_plus(value)}" for name, value in fields.items())
    assert decoded("application/x-www-form-urlencoded", body.encode()) == fields


FORM = "multipart/form-data; boundary=xyz"


def part(head: str, content: bytes) -> bytes:
    return b"--xyz\r\n" + head.encode() + b"\r\n\r\n" + content + b"\r\n"


def test_multipart_decodes_file_parts_by_their_own_type_and_leaves_fields_raw() -> None:
    body = (
        part('Content-Disposition: form-data; name="field"', b"[1]")
        + part(
            'content-disposition: form-data; name="data"; filename="a"\r\nContent-Type: application/json',
            b"[1]",
        )
        + part(
            'Content-Disposition: form-data; name="note"; filename="n.txt"\r\nContent-Type: text/plain', b"hi"
        )
        + part('Content-Disposition: form-data; name="image"; filename="i"', b"\x00\r\n--xy\r\n")
        + b"--xyz--\r\n"
    )
    assert decoded(FORM, body) == {
        "field": bytearray(b"[1]"),
        "data": [1],
        "note": "hi",
        "image": bytearray(b"\x00\r\n--xy\r\n"),
    }


def test_multipart_with_preamble_quotes_and_names_in_any_script() -> None:
    body = (
        b"preamble --xyz\r\n" + part('Content-Disposition: form-data; name="größe \\"1\\""', b"") + b"--xyz--"
    )
    assert decoded('multipart/form-data; boundary="xyz"', b"\r\n" + body) == {'größe "1"': bytearray()}


@given(st.lists(st.tuples(st.from_regex(r"[a-z]{1,8}", fullmatch=True), st.binary()), max_size=4))
def test_multipart_round_trip(parts: list[tuple[str, bytes]]) -> None:
    parts = [(name, value.replace(b"--xyz", b"")) for name, value in parts]
    body = b"".join(part(f'Content-Disposition: form-data; name="{name}"', value) for name, value in parts)
    assert decoded(FORM, body + b"--xyz--\r\n") == dict(parts)


@pytest.mark.parametrize(
    ("content_type", "body"),
    [
        ("multipart/form-data", b"--xyz--"),
        (FORM, b""),
        (FORM, b"no delimiter"),
        (FORM, part('Content-Disposition: form-data; name="a"', b"cut short")),
        (FORM, b"--xyz\r\nno headers\r\n--xyz--"),
        (FORM, part("Content-Disposition: form-data", b"no name") + b"--xyz--"),
        (FORM, part("Content-Type: text/plain", b"no name") + b"--xyz--"),
    ],
)
def test_malformed_multipart_is_a_bad_request(content_type: str, body: bytes) -> None:
    with pytest.raises(NodeError) as caught:
        decoded(content_type, body)
    assert caught.value.fault.code == 400
    assert not caught.value.fault.splittable


@given(st.binary(max_size=200).map(lambda noise: noise.replace(b"!", b"--xyz").replace(b"?", b"\r\n")))
def test_any_multipart_body_is_read_or_refused(body: bytes) -> None:
    with contextlib.suppress(NodeError):
        assert all(isinstance(value, (bytearray, str)) for value in decoded(FORM, body).values())


def test_undecoded_parts_are_views_when_that_is_asked_for() -> None:
    body = bytearray(part('Content-Disposition: form-data; name="a"', b"12") + b"--xyz--")
    (found,) = parameters(FORM, memoryview(body), lambda view: view)
    found.value[:] = b"34"
    assert b"34" in body


def test_json_keeps_what_json_says() -> None:
    assert decoded("application/json", json.dumps({"π": 1e400}).encode()) == {"body": {"π": float("inf")}}
