"""A content has the bytes its digest says, all of them on the disk before anybody learns the digest.

    incoming/<random>   written, then synchronised, then renamed to
    <digest>            which nobody writes to any more

A process killed at any step leaves what is in `incoming`, which the next one removes, or the whole. Files are
copied, never linked, because whoever gave one may write to it later. All of this blocks: it reads and writes
whole archives, and belongs into a thread.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import tempfile
import threading
import zipfile
from collections import Counter
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, TYPE_CHECKING

from wfserve.archive.spec import SHA256
from wfserve.errors import BadRequestError
from wfserve.state.files import StateError, failures_told, make_directory, move, put_aside, sync
from wfserve.state.records import Content

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

CHUNK = 1 << 20  # bytes
DEEPEST = 64  # directories, one in the other
_EPOCH = (1980, 1, 1, 0, 0, 0)  # the first moment a zip can say


class Contents:
    """The archives of one state directory; threads may share it, processes may not."""

    def __init__(self, directory: Path) -> None:
        """Open the store in `directory`, made if need be. Raises `OSError`."""
        self._directory = directory
        self.incoming = directory / "incoming"  # for files that become contents, or are gone soon
        self._lock = threading.Lock()  # of what is held: between it and what is used nothing may be lost
        self._held: Counter[str] = Counter()
        make_directory(directory)
        shutil.rmtree(self.incoming, ignore_errors=True)  # of a process that was killed
        make_directory(self.incoming)

    @contextmanager
    def transfer(self) -> Iterator[Transfer]:
        """Give what puts and holds archives; none of them is collected before the block ends.

        Whoever wants to keep them says so in a durable place before that.
        """
        transfer = Transfer(self)
        try:
            yield transfer
        finally:
            with self._lock:
                self._held -= transfer.held

    def path(self, content: Content) -> Path:
        """Return the file of `content`, which has the right size; call it as often as you like.

        Raises `StateError` if it is missing or has another size, and puts aside what is there then.
        """
        path = self._directory / content.digest
        with failures_told(f"read the archive {content.digest}"):
            try:
                size = path.stat().st_size
            except FileNotFoundError:
                raise StateError(f"The archive {content.digest} is missing from {self._directory}.") from None
            if size != content.size:
                self._refuse(path, f"{size} bytes instead of {content.size}")
        return path

    def verify(self, content: Content) -> Path:
        """Return the file of `content` after reading all of it. Raises `StateError` as `path` does."""
        path = self.path(content)
        with failures_told(f"read the archive {content.digest}"):
            found = digest_of(path)
            if found != content.digest:
                self._refuse(path, f"the SHA-256 {found}")
        return path

    def _refuse(self, path: Path, found: str) -> None:
        aside = put_aside(path)
        raise StateError(f"The archive {path.name} is damaged: it has {found}. It was put aside as {aside}.")

    def collect(self, used: Callable[[], Collection[str]]) -> list[str]:
        """Remove all contents but those of a transfer and those whose digests `used` returns; return which.

        What was put aside stays. Raises `StateError`.
        """
        with self._lock, failures_told(f"remove archives from {self._directory}"):
            kept = {*used(), *self._held}
            unused = [name for name in os.listdir(self._directory) if SHA256.fullmatch(name)]
            removed = sorted(set(unused) - kept)
            for name in removed:
                os.unlink(self._directory / name)
            return removed

    def is_empty(self) -> bool:
        """Whether there is no content at all."""
        return not any(SHA256.fullmatch(name) for name in os.listdir(self._directory))

    @contextmanager
    def _scratch(self) -> Iterator[tuple[Path, IO[bytes]]]:
        """Give a new file that nobody else can read; it is removed unless it was renamed."""
        descriptor, name = tempfile.mkstemp(dir=self.incoming)
        try:
            with open(descriptor, "wb") as file:
                yield Path(name), file
        finally:
            with suppress(FileNotFoundError):
                os.unlink(name)

    def _settle(self, file: Path, content: Content, transfer: Transfer) -> Content:
        """Make `file`, which is on the disk, the file of `content`; if there is one it may be damaged."""
        self._hold(content, transfer)
        os.chmod(file, 0o400)
        move(file, self._directory / content.digest)
        return content

    def _hold(self, content: Content, transfer: Transfer) -> None:
        with self._lock:
            self._held[content.digest] += 1
            transfer.held[content.digest] += 1


class Transfer:
    """Puts archives into the store they are held in meanwhile. Made by `Contents.transfer`."""

    def __init__(self, contents: Contents) -> None:
        self._contents = contents
        self.held: Counter[str] = Counter()

    def put(self, source: Path) -> Content:
        """Store a copy of `source`; of a directory, a zip of it that is the same for the same files.

        Equal contents are stored once, and one that was damaged is sound again. Raises `StateError`, or
        `BadRequestError` if a directory leads back to itself.
        """
        with failures_told(f"store the archive {source}"), self._contents._scratch() as (path, file):
            if source.is_dir():
                _zip_directory(source, file)
            else:
                with source.open("rb") as given:
                    shutil.copyfileobj(given, file, CHUNK)
            file.flush()
            return self._adopt(path)

    def write(self, data: bytes) -> Content:
        """Store `data`. Raises `StateError`."""
        with failures_told("store a content"), self._contents._scratch() as (path, file):
            file.write(data)
            file.flush()
            return self._adopt(path)

    def hold(self, content: Content) -> None:
        """Keep `content` from being collected, if it is there."""
        self._contents._hold(content, self)

    def adopt(self, source: Path) -> Content:
        """Store `source` itself, which nobody writes to any more and which is gone from where it was.

        It must be on the same file system. Raises `StateError`.
        """
        with failures_told(f"store the archive {source}"):
            return self._adopt(source)

    def _adopt(self, path: Path) -> Content:
        content = Content(digest_of(path), path.stat().st_size)
        sync(path)
        return self._contents._settle(path, content, self)


def digest_of(path: Path) -> str:
    """Return the SHA-256 of a file, hexadecimal. Raises `OSError`."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _zip_directory(root: Path, file: IO[bytes]) -> None:
    with zipfile.ZipFile(file, "w") as archive:
        for name, path in _walk(root):
            info = zipfile.ZipInfo(name, _EPOCH)
            info.external_attr = (0o40755 if path is None else 0o100644) << 16
            info.file_size = 0 if path is None else path.stat().st_size  # tells whether 32 bits will do
            with archive.open(info, "w") as sink:
                if path is not None:
                    with path.open("rb") as source:
                        shutil.copyfileobj(source, sink, CHUNK)


def _walk(
    directory: Path, prefix: str = "", above: tuple[Path, ...] = ()
) -> Iterator[tuple[str, Path | None]]:
    """Give every file below `directory` by its name in the zip, and every directory, without a path."""
    here = directory.resolve()
    if here in above or len(above) > DEEPEST:
        raise BadRequestError(f"{directory} is more than {DEEPEST} directories deep, or a link leads back.")
    for name in sorted(os.listdir(directory)):
        path = directory / name
        if path.is_dir():
            yield f"{prefix}{name}/", None
            yield from _walk(path, f"{prefix}{name}/", (*above, here))
        elif path.is_file() and _is_unicode(name):
            yield f"{prefix}{name}", path
        else:
            raise BadRequestError(
                f"{str(path)!a} is neither a file nor a directory, or its name is not UTF-8."
            )


def _is_unicode(name: str) -> bool:
    return not any("\ud800" <= character <= "\udfff" for character in name)
