"""A snapshot is one file with a whole registry, the same bytes for equal ones, and is taken in whole or not.

    wfserve.json         {"format": 1, "workflows": [documents, by name]}
    contents/<digest>    every archive that they need

It is a zip whose entries are stored, so that no compressor makes a difference and any tool can look inside.
The log of changes stays where it was written.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from wfserve.archive.extract import ExtractLimits, extract
from wfserve.errors import BadRequestError, ConflictError
from wfserve.state.documents import DocumentError, decode, encode, from_document, to_document
from wfserve.state.durable import CONTENTS as ARCHIVES
from wfserve.state.durable import DATABASE, HOME
from wfserve.state.files import StateError, failures_told, move, sync
from wfserve.state.store import read_beside

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from wfserve.state.contents import Transfer
    from wfserve.state.durable import State
    from wfserve.state.records import Content, Workflow
    from wfserve.state.store import Author

FORMAT = 1
DOCUMENT = "wfserve.json"
CONTENTS = "contents"
LARGEST_DOCUMENT = 64 << 20  # bytes
CHUNK = 1 << 20
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can say


class SnapshotError(BadRequestError):
    """A file that is no snapshot, or one that is damaged."""


@dataclass(frozen=True, slots=True)
class Difference:
    """What one place of two registries has; None where it has nothing."""

    path: tuple[str, ...]  # such as ("img", "versions", "2.0", "archive", "digest")
    before: Any
    after: Any


def export_snapshot(directory: Path, file: Path) -> dict[str, Workflow]:
    """Write the registry in the state directory `directory` to `file`, all of it or nothing; return it.

    A server may be using it and change it meanwhile. Raises `StateError` if there is no registry, an archive
    is damaged or missing, or `file` cannot be written.
    """
    while True:
        workflows = read_registry(directory)
        try:
            _write(file, workflows, lambda content: directory / HOME / ARCHIVES / content.digest)
        except StateError:
            if read_registry(directory) == workflows:  # else what was just removed is missing
                raise
        else:
            return workflows


def read_registry(directory: Path) -> dict[str, Workflow]:
    """Return the workflows in a state directory. Raises `StateError`, also if it has no registry."""
    database = directory / HOME / DATABASE
    if not database.exists():  # a backup of a mistyped directory would be empty, and take a good one's place
        raise StateError(f"there is no registry in {directory}")
    return read_beside(database)


def _write(file: Path, workflows: Mapping[str, Workflow], path: Callable[[Content], Path]) -> None:
    contents = {each.digest: each for workflow in workflows.values() for each in workflow.contents()}
    with (
        failures_told(f"write the snapshot {file}"),
        _replacing(file) as work,
        zipfile.ZipFile(work, "w") as archive,
    ):
        archive.writestr(_entry(DOCUMENT), _document(workflows))
        for _, content in sorted(contents.items()):
            _add(archive, path(content), content)


def _document(workflows: Mapping[str, Workflow]) -> bytes:
    ordered = [to_document(workflow) for _, workflow in sorted(workflows.items())]
    return encode({"format": FORMAT, "workflows": ordered})


def _entry(name: str) -> zipfile.ZipInfo:
    info = zipfile.ZipInfo(name, _EPOCH)
    info.external_attr = 0o100600 << 16
    return info


def _add(archive: zipfile.ZipFile, path: Path, content: Content) -> None:
    info = _entry(f"{CONTENTS}/{content.digest}")
    info.file_size = content.size  # tells zipfile whether 32 bits will do
    found = hashlib.sha256()
    with path.open("rb") as source, archive.open(info, "w") as sink:
        while chunk := source.read(CHUNK):
            found.update(chunk)
            sink.write(chunk)
    if found.hexdigest() != content.digest:
        raise StateError(f"The archive {content.digest} is damaged: it has the SHA-256 {found.hexdigest()}.")


@contextmanager
def _replacing(file: Path) -> Iterator[Path]:
    """Give a new file beside `file`, which becomes it at the end, on the disk."""
    descriptor, name = tempfile.mkstemp(prefix=".snapshot-", dir=file.parent)
    os.close(descriptor)
    try:
        yield Path(name)
        sync(Path(name))
        move(Path(name), file)
    finally:
        with suppress(FileNotFoundError):
            os.unlink(name)


def read_snapshot(file: Path, limits: ExtractLimits | None = None) -> dict[str, Workflow]:
    """Return the workflows in the snapshot `file`, by name; it is unpacked beside `file` for a while.

    Raises `SnapshotError`, `TooLargeError`, or `StateError` if it cannot be read or unpacked.
    """
    with (
        failures_told(f"read the snapshot {file}"),
        tempfile.TemporaryDirectory(prefix=".snapshot-", dir=file.parent) as scratch,
    ):
        return _unpacked(file, Path(scratch, "snapshot"), limits)


def import_snapshot(
    state: State, file: Path, author: Author, *, replace: bool = False, limits: ExtractLimits | None = None
) -> dict[str, Workflow]:
    """Add the workflows of the snapshot `file` in one change and return them; equal ones may be there.

    With `replace` they are all that is left. Raises as `read_snapshot` does, or `ConflictError` if there is
    another workflow of a name; then nothing has changed.
    """
    with (
        failures_told(f"read the snapshot {file}"),
        tempfile.TemporaryDirectory(dir=state.contents.incoming) as scratch,
        state.contents.transfer() as transfer,
    ):
        unpacked = Path(scratch, "snapshot")
        workflows = _unpacked(file, unpacked, limits)
        contents = {each.digest: each for workflow in workflows.values() for each in workflow.contents()}
        for content in contents.values():
            _adopt(transfer, unpacked / CONTENTS / content.digest, content)

        def decide() -> Mapping[str, Workflow | None]:
            removed = state.workflows.keys() - workflows.keys() if replace else ()
            _refuse_others(workflows, {} if replace else state.workflows)
            return {**workflows, **dict.fromkeys(removed)}

        arguments = {"file": str(file), "workflows": sorted(workflows), "replace": replace}
        state.change(author, "import", None, arguments, decide)
        return workflows


def _refuse_others(workflows: Mapping[str, Workflow], present: Mapping[str, Workflow]) -> None:
    others = sorted(name for name in workflows if present.get(name, workflows[name]) != workflows[name])
    if others:
        raise ConflictError(f"The registry has other workflows of these names: {', '.join(others)}.")


def _unpacked(file: Path, into: Path, limits: ExtractLimits | None) -> dict[str, Workflow]:
    if not file.is_file():
        raise SnapshotError(f"There is no snapshot {file}.")
    extract(file, into, limits or ExtractLimits())
    document = into / DOCUMENT
    if not document.is_file() or document.stat().st_size > LARGEST_DOCUMENT:
        raise SnapshotError(f"{file} is not a snapshot: it has no {DOCUMENT}, or one that is too large.")
    try:
        return _workflows(decode(document.read_bytes()))
    except DocumentError as error:
        raise SnapshotError(f"{file} is not a snapshot: {error.message}") from None


def _workflows(document: Any) -> dict[str, Workflow]:
    if not isinstance(document, dict) or not isinstance(document.get("workflows"), list):
        raise DocumentError("it has no list of workflows")
    if document.get("format") != FORMAT:
        raise DocumentError(f"its format is {str(document.get('format'))[:20]}, and only {FORMAT} is known")
    workflows = [from_document(each) for each in document["workflows"]]
    found = {workflow.name: workflow for workflow in workflows}
    if len(found) < len(workflows):
        raise DocumentError("it has a workflow twice")
    return found


def _adopt(transfer: Transfer, path: Path, content: Content) -> None:
    if not path.is_file():
        raise SnapshotError(f"The snapshot lacks the archive {content.digest}.")
    if transfer.adopt(path) != content:
        raise SnapshotError(f"The snapshot's archive {content.digest} is damaged.")


def diff(before: Mapping[str, Workflow], after: Mapping[str, Workflow]) -> list[Difference]:
    """Return where two registries differ, by name; the order of registration is no difference."""
    return list(_compare((), _by_version(before), _by_version(after)))


def _by_version(workflows: Mapping[str, Workflow]) -> dict[str, Any]:
    documents = {name: to_document(workflow) for name, workflow in workflows.items()}
    for document in documents.values():
        document["versions"] = {each["version"]: each for each in document["versions"]}
    return documents


def _compare(path: tuple[str, ...], before: Any, after: Any) -> Iterator[Difference]:
    if isinstance(before, dict) and isinstance(after, dict):
        for key in sorted(before.keys() | after.keys()):
            yield from _compare((*path, key), before.get(key), after.get(key))
    elif before != after:
        yield Difference(path, before, after)
