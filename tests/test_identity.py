"""What stands for a UUID is one."""

import uuid

from wfserve.identity import new_uuid


def test_identifiers_are_random_uuids_of_version_4():
    made = {new_uuid() for _ in range(10_000)}
    assert len(made) == 10_000
    parsed = [uuid.UUID(each) for each in made]
    assert {(each.version, each.variant) for each in parsed} == {(4, uuid.RFC_4122)}
    assert {str(each) for each in parsed} == made
