"""Versions are text of digits and dots, in the order of their numbers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from wfserve.errors import BadRequestError
from wfserve.state.naming import check_name, check_version, parse_version, version_order

PARTS = st.lists(st.integers(0, 10**6), min_size=1, max_size=5)


@pytest.mark.parametrize("version", ["1", "1.0", "1.10", "2024.01.05", "0", "9" * 64])
def test_versions(version):
    assert check_version(version) == version


@pytest.mark.parametrize(
    "version", ["", ".", "1.", ".1", "1..2", "v1", "1.0-rc", " 1", "1\n", "١", "9" * 65, None, True, ["1"]]
)
def test_no_versions(version):
    with pytest.raises(BadRequestError, match="digits and dots"):
        check_version(version)


@pytest.mark.parametrize("number", [1, 1.1])
def test_a_number_is_refused_with_a_hint(number):
    with pytest.raises(BadRequestError, match=f'write it in quotes, "{number}"'):
        check_version(number)


@given(PARTS, PARTS)
def test_the_order_is_that_of_the_numbers(one, other):
    texts = [".".join(map(str, parts)) for parts in (one, other)]
    assert [list(parse_version(text)) for text in texts] == [one, other]
    assert (version_order(texts[0]) < version_order(texts[1])) == (one < other)


def test_versions_of_equal_numbers_are_two():
    assert sorted(["1.10", "1.00", "1.9", "1.0"], key=version_order) == ["1.0", "1.00", "1.9", "1.10"]


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "x" * 256])
def test_names_that_cannot_be_in_a_url(name):
    with pytest.raises(BadRequestError):
        check_name(name)


def test_a_name():
    assert check_name("größe 1") == "größe 1"
