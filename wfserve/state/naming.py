"""What names a workflow or a version of one is text that can stand in a path of the API."""

from __future__ import annotations

from wfserve.archive.spec import LONGEST_VERSION, is_version
from wfserve.errors import BadRequestError

LONGEST_NAME = 255  # characters


def check_name(name: str) -> str:
    """Return `name` if it can name a workflow. Raises `BadRequestError`."""
    if len(name) > LONGEST_NAME:
        raise BadRequestError(f"A workflow's name has at most {LONGEST_NAME} characters.")
    if not name or "/" in name or name in (".", "..") or not name.isprintable():
        raise BadRequestError(f"Workflow name {name!r} cannot be part of a URL.")
    return name


def check_version(version: object) -> str:
    """Return `version` if it is text of digits and single dots between them, as in `1.10`.

    Raises `BadRequestError`; for a number with a hint to quote it, since 1.10 is read as 1.1.
    """
    if isinstance(version, int | float) and not isinstance(version, bool):
        raise BadRequestError(
            f'Version {version} is a number, which 1.10 and 1.1 both are: write it in quotes, "{version}".'
        )
    if not isinstance(version, str) or not is_version(version):
        shown = f"{str(version)[:LONGEST_VERSION]!r}"
        raise BadRequestError(f"Version {shown} is not made of digits and dots, such as 1.10.")
    return version
