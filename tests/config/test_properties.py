"""Properties mean what Java takes them to mean, whatever wrote them."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.config.properties import parse_properties, read_properties
from wfserve.errors import ConfigError

SNAPSHOT = r"""#Saving snapshot
#Sat Jan 06 10\:00\:00 UTC 2024
inference_address=http\://127.0.0.1\:8080
model_snapshot={\n  "name"\: "startup.cfg",\n  "modelCount"\: 0\n}
model_store=/data/model\ store
"""


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a=1\nb = 2\nc: 3\nd 4\ne\n=5", {"a": "1", "b": "2", "c": "3", "d": "4", "e": "", "": "5"}),
        ("# a=1\n! b=2\n\n \t\fc=3", {"c": "3"}),
        ("a=1 \t\nb=2", {"a": "1 \t", "b": "2"}),
        ("a=1,\\\n   2,\\\r\n3\\\r  4", {"a": "1,2,34"}),
        ("a=1\\\n# 2\nb=3", {"a": "1# 2", "b": "3"}),
        ("a=1\\\n\nb=2", {"a": "1", "b": "2"}),
        ("a=1\\\\\nb=2", {"a": "1\\", "b": "2"}),
        ("a=1\\\\\\\nb=2", {"a": "1\\b=2"}),
        ("# a comment \\\nb=2", {"b": "2"}),
        ("a=1\rb=2\r\nc=3", {"a": "1", "b": "2", "c": "3"}),
        ("a=b=c:d", {"a": "b=c:d"}),
        ("a : =b", {"a": "=b"}),
        ("a=1\na=2", {"a": "2"}),
        ("a=1\\", {"a": "1"}),
        ("a=\\u2028\x0bx", {"a": "\u2028\x0bx"}),
        ("a=\u2028\x0bx", {"a": "\u2028\x0bx"}),
        ("a=\\u00e9\\t\\q\\\\", {"a": "é\tq\\"}),
        ("a=\\ud83d\\ude00", {"a": "😀"}),
        ("a\\=b\\:c\\ d=1", {"a=b:c d": "1"}),
        ("\\", {}),
        ("\\\n\n", {}),
        ("", {}),
    ],
)
def test_what_java_reads(text, expected):
    assert parse_properties(text) == expected


def test_what_torchserve_wrote():
    assert parse_properties(SNAPSHOT) == {
        "inference_address": "http://127.0.0.1:8080",
        "model_snapshot": '{\n  "name": "startup.cfg",\n  "modelCount": 0\n}',
        "model_store": "/data/model store",
    }


@pytest.mark.parametrize("text", ["a=\\u12", "a=\\u", "a=\\uxyzw", "\\u1=2"])
def test_a_broken_escape(text):
    with pytest.raises(ConfigError, match="four hexadecimal digits"):
        parse_properties(text)


@pytest.mark.parametrize("text", ["a=\\ud83d", "a=\\ude00\\ud83d"])
def test_half_a_character(text):
    with pytest.raises(ConfigError, match="half a character"):
        parse_properties(text)


@pytest.mark.parametrize(
    ("content", "value"),
    [("# Größe\na=é".encode(), "é"), ("# Größe\na=é".encode("latin-1"), "é"), (b"\xef\xbb\xbfa=1", "1")],
)
def test_encodings(tmp_path, content, value):
    path = tmp_path / "p"
    path.write_bytes(content)
    assert read_properties(path) == {"a": value}


WRITTEN = str.maketrans(
    {c: f"\\{c}" for c in "\\=: #!"} | {"\n": "\\n", "\r": "\\r", "\t": "\\t", "\f": "\\f"}
)
TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


@given(st.dictionaries(TEXTS, TEXTS))
def test_what_is_written_is_read(properties):
    lines = [f"{key.translate(WRITTEN)}={value.translate(WRITTEN)}" for key, value in properties.items()]
    assert parse_properties("\n".join(lines)) == properties


@given(st.text())
def test_any_text_has_properties_or_an_error(text):
    with contextlib.suppress(ConfigError):
        parse_properties(text)
