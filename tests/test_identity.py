"""What stands for a UUID is one."""

import uuid

import pytest

from wfserve.identity import as_uuid, new_uuid


def test_identifiers_are_random_uuids_of_version_4():
    made = {new_uuid() for _ in range(10_000)}
    assert len(made) == 10_000
    parsed = [uuid.UUID(each) for each in made]
    assert {(each.version, each.variant) for each in parsed} == {(4, uuid.RFC_4122)}
    assert {str(each) for each in parsed} == made


def test_what_is_a_uuid_is_kept_in_lower_case():
    given = "11111111-2222-3333-4444-AAAAAAAAAAAA"
    assert as_uuid(given.encode()) == given.lower()


@pytest.mark.parametrize(
    "given", [b"", b"mine", b"1" * 36, b"11111111-2222-3333-4444-55555555555", b"-" * 36, b"\xff" * 36]
)
def test_what_is_none_becomes_a_new_one(given):
    assert uuid.UUID(as_uuid(given)).version == 4
