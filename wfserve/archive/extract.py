"""What is extracted lies inside its directory and within its limits, or nothing is left of it.

A container is told by its first bytes: zip, or tar.gz, whose entries lose their first path component as in
TorchServe. Everything here blocks; async callers use threads. Extraction limits count what is really
written, never what an entry declares.
"""

from __future__ import annotations

import enum
import errno
import gzip
import io
import shutil
import stat
import struct
import tarfile
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Literal, NamedTuple, Protocol

from wfserve.errors import BadRequestError, InternalError, TooLargeError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

GIB = 1 << 30
CHUNK = 1 << 20  # bytes copied at a time
RATIO_FLOOR = 64 << 20  # bytes; below this any ratio is harmless
LONGEST_PATH = 1024  # bytes of an entry's path
LONGEST_NAME = 255  # bytes of one component, the file systems' limit
HEADER_ALLOWANCE = 1 << 20  # bytes of tar headers before one entry
DIRECTORY_RECORD = 512  # bytes; more than an entry of a zip's central directory needs, on average
TAR_OVERHEAD = 2048  # bytes of header and padding of one entry, on average

WORKFLOW_MANIFEST = "WAR-INF/MANIFEST.json"
MODEL_MANIFEST = "MAR-INF/MANIFEST.json"

Container = Literal["zip", "tar.gz", "directory"]

_DAMAGED = (
    zipfile.BadZipFile,
    tarfile.TarError,
    gzip.BadGzipFile,
    zlib.error,
    struct.error,
    EOFError,
    RuntimeError,  # NotImplementedError too
    ValueError,  # UnicodeDecodeError too
    OverflowError,
    IndexError,
)


class ArchiveError(BadRequestError):
    """A file that is no archive, or an archive that is damaged or tries something."""


class ArchiveKind(enum.Enum):
    """What an archive holds, as its content tells."""

    WORKFLOW = "workflow"
    MODEL = "model"


@dataclass(frozen=True, slots=True)
class ExtractLimits:
    """What one archive may become on disk."""

    max_bytes: int = 32 * GIB
    max_files: int = 100_000  # directories included
    max_ratio: int = 200  # extracted bytes to archived bytes; counts above RATIO_FLOOR


class Member(NamedTuple):
    """An entry of an archive; `content` is None for a directory and can be read until the next entry."""

    name: str
    content: IO[bytes] | None


def container_of(path: Path) -> Container | None:
    """Return how the file or directory at `path` holds an archive, None if it does not."""
    if path.is_dir():
        return "directory"
    with path.open("rb") as file:
        magic = file.read(4)
    if magic in (b"PK\x03\x04", b"PK\x05\x06"):
        return "zip"
    return "tar.gz" if magic[:2] == b"\x1f\x8b" else None


def sniff(path: Path) -> ArchiveKind:
    """Return whether `path` (zip, tar.gz or directory) holds a workflow or a model.

    Raises `ArchiveError` if it holds neither manifest or cannot be read.
    """
    if container_of(path) == "directory":
        names = {name for name in (WORKFLOW_MANIFEST, MODEL_MANIFEST) if (path / name).is_file()}
    else:
        with _errors_translated(), _members(path, ExtractLimits()) as members:
            paths = ("/".join(_path_of(member.name)) for member in members)
            names = {next((name for name in paths if name in (WORKFLOW_MANIFEST, MODEL_MANIFEST)), "")}
    if WORKFLOW_MANIFEST in names:
        return ArchiveKind.WORKFLOW
    if MODEL_MANIFEST in names:
        return ArchiveKind.MODEL
    raise ArchiveError(f"The archive has neither {WORKFLOW_MANIFEST} nor {MODEL_MANIFEST}.")


def extract(path: Path, into: Path, limits: ExtractLimits) -> None:
    """Extract the zip or tar.gz at `path` into the new directory `into`.

    Links, devices, encrypted entries, names that leave `into` or repeat, and damage raise `ArchiveError`;
    what exceeds `limits` raises `TooLargeError`. Either way `into` is gone. It must not exist before.
    """
    into.mkdir(parents=True)
    try:
        with _errors_translated(), _members(path, limits) as members:
            _Sink(into, limits, path.stat().st_size).take(members)
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise


@contextmanager
def _errors_translated() -> Iterator[None]:
    try:
        yield
    except _DAMAGED as error:
        raise ArchiveError(f"The archive is damaged or not supported: {error}") from error
    except OSError as error:
        if error.errno == errno.EINVAL:  # a seek to where a damaged index points
            raise ArchiveError("The archive is damaged.") from error
        raise InternalError(f"The archive cannot be extracted: {error.strerror}") from error


@contextmanager
def _members(path: Path, limits: ExtractLimits) -> Iterator[Iterator[Member]]:
    """Give the entries in the order of the archive."""
    kind = container_of(path)
    if kind == "zip":
        with _Bounded(io.FileIO(path), limits.max_files * DIRECTORY_RECORD) as file:
            yield _zip_members(file)
    elif kind == "tar.gz":
        with gzip.open(path) as unpacked:
            yield _tar_members(_Meter(unpacked, limits.max_bytes + limits.max_files * TAR_OVERHEAD))
    else:
        raise ArchiveError("The file is neither a zip nor a tar.gz archive.")


class _Bounded(io.BufferedReader):
    """Refuses a read larger than an honest zip's central directory, which zipfile reads in one piece."""

    def __init__(self, file: io.FileIO, most: int) -> None:
        super().__init__(file)
        self._most = max(most, CHUNK)

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > self._most:
            raise TooLargeError("The archive's directory is too large.")
        return super().read(size)


def _zip_members(file: IO[bytes]) -> Iterator[Member]:
    with zipfile.ZipFile(file) as archive:
        for info in archive.infolist():
            _refuse_odd_zip_entry(info)
            if info.is_dir():
                yield Member(info.filename, None)
            else:
                with archive.open(info) as content:
                    yield Member(info.filename, content)


def _refuse_odd_zip_entry(info: zipfile.ZipInfo) -> None:
    if stat.S_IFMT(info.external_attr >> 16) not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise _neither_file_nor_directory(info.filename)
    if info.flag_bits & 0x1:
        raise ArchiveError(f"Encrypted entries are not supported: {info.filename!a}")
    if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ArchiveError(f"Only stored and deflated entries are supported: {info.filename!a}")


class _Readable(Protocol):
    def read(self, size: int, /) -> bytes: ...


class _Meter:
    """A reader of an unpacked tar that bounds the whole, and the headers that tarfile reads into memory."""

    def __init__(self, file: _Readable, limit: int) -> None:
        self._file = file
        self._left = limit
        self._header_left: int | None = None

    def expect_header(self) -> None:
        """What is read from here on is a header, until `expect_content`."""
        self._header_left = HEADER_ALLOWANCE

    def expect_content(self) -> None:
        """What is read from here on is the content of an entry."""
        self._header_left = None

    def read(self, size: int) -> bytes:
        data = self._file.read(size)
        self._left -= len(data)
        if self._header_left is not None:
            self._header_left -= len(data)
        if self._left < 0 or (self._header_left or 0) < 0:
            raise TooLargeError("The archive is too large when unpacked.")
        return data


def _tar_members(meter: _Meter) -> Iterator[Member]:
    meter.expect_header()
    with tarfile.open(fileobj=meter, mode="r|") as archive:  # type: ignore[call-overload]
        while (info := archive.next()) is not None:
            meter.expect_content()
            _path_of(info.name)  # before the first component, perhaps `..`, is gone
            if not (info.isdir() or (info.isreg() and not info.issparse())):
                raise _neither_file_nor_directory(info.name)
            first, slash, rest = info.name.partition("/")
            content = archive.extractfile(info)
            yield Member(rest if slash or info.isdir() else first, content)
            while content is not None and content.read(CHUNK):
                pass  # the entry was passed over
            meter.expect_header()
        meter.expect_content()
        while meter.read(CHUNK):
            pass  # gzip's checksum is at its very end


def _neither_file_nor_directory(name: str) -> ArchiveError:
    return ArchiveError(f"Only files and directories are allowed in an archive: {name!a}")


def _path_of(name: str) -> tuple[str, ...]:
    """Return the components of an entry's name, none for the root. Raises `ArchiveError`."""
    try:
        longest = max(len(part.encode()) for part in name.split("/"))
    except UnicodeEncodeError:
        raise ArchiveError(f"An entry's name is not valid UTF-8: {name!a}") from None
    parts = tuple(part for part in name.split("/") if part not in ("", "."))
    if name.startswith("/") or ".." in parts:
        raise ArchiveError(f"Detected Zip Slip vulnerability: {name}")
    if "\0" in name or longest > LONGEST_NAME or len(name) > LONGEST_PATH:
        raise ArchiveError(f"An entry's name cannot be a path: {name[:80]!a}")
    return parts


class _Sink:
    """Writes entries below one directory that was empty, and counts."""

    def __init__(self, root: Path, limits: ExtractLimits, archived_bytes: int) -> None:
        self._root = root
        self._limits = limits
        ratio_limit = max(RATIO_FLOOR, limits.max_ratio * archived_bytes)
        self._bytes_left = min(limits.max_bytes, ratio_limit)
        self._files_left = limits.max_files
        self._directories: set[tuple[str, ...]] = {()}

    def take(self, members: Iterator[Member]) -> None:
        for member in members:
            parts = _path_of(member.name)
            try:
                self._make_directory(parts if member.content is None else parts[:-1])
                if member.content is not None:
                    self._write(parts, member.content)
            except (FileExistsError, NotADirectoryError, IsADirectoryError):
                raise ArchiveError(f"The archive has two entries of one name: {member.name}") from None

    def _make_directory(self, parts: tuple[str, ...]) -> None:
        for depth in range(1, len(parts) + 1):
            if parts[:depth] not in self._directories:
                self._count()
                self._root.joinpath(*parts[:depth]).mkdir()
                self._directories.add(parts[:depth])

    def _write(self, parts: tuple[str, ...], content: IO[bytes]) -> None:
        self._count()
        with self._root.joinpath(*parts).open("xb") as file:
            while chunk := content.read(CHUNK):
                self._bytes_left -= len(chunk)
                if self._bytes_left < 0:
                    raise TooLargeError("The archive is too large when unpacked.")
                file.write(chunk)

    def _count(self) -> None:
        self._files_left -= 1
        if self._files_left < 0:
            raise TooLargeError(f"The archive holds more than {self._limits.max_files} files.")
