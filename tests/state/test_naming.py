"""Versions are text of digits and dots; names can stand in a URL."""

import pytest

from wfserve.errors import BadRequestError
from wfserve.state.naming import check_name, check_version


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


@pytest.mark.parametrize("name", ["", ".", "..", "a/b", "a\nb", "x" * 256])
def test_names_that_cannot_be_in_a_url(name):
    with pytest.raises(BadRequestError):
        check_name(name)


def test_a_name():
    assert check_name("größe 1") == "größe 1"
