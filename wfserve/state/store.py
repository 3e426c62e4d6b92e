"""The database is what the last change left: a change and its line in the log are one transaction.

A workflow is one row, its document, because it changes as one and no query needs to look into it. One process
writes, which holds the directory's lock; others may read meanwhile, which is what the write-ahead log is for.
A commit has happened when it returns, and is in the database itself, whose damage is noticed: what SQLite
cannot read of its write-ahead log it takes for a change that never was.
"""

from __future__ import annotations

import json
import os
import sqlite3
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from zlib import crc32

from wfserve.state.documents import DocumentError, decode, encode, from_document, to_document
from wfserve.state.files import StateError, sync

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from wfserve.state.records import Workflow

APPLICATION = 0x77667376  # "wfsv": says in the file's head whose database it is
MOST_CHANGES = 100_000  # in the log; the oldest go first
LONGEST_ARGUMENTS = 16 << 10  # bytes of JSON that the log keeps of one change
LONGEST_TEXT = 1024  # characters of what it says beside that
DONE = "done"

_SCHEMA = (
    """CREATE TABLE workflow (
        position INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, document TEXT NOT NULL, crc INTEGER NOT NULL
    )""",
    """CREATE TABLE change (
        number INTEGER PRIMARY KEY AUTOINCREMENT, at TEXT NOT NULL, who TEXT NOT NULL, address TEXT NOT NULL,
        what TEXT NOT NULL, workflow TEXT, arguments TEXT NOT NULL, outcome TEXT NOT NULL
    )""",
)
Migration = tuple[str, ...]  # statements that lead from one schema to the next
MIGRATIONS: tuple[Migration, ...] = (_SCHEMA,)  # the n-th makes schema n; only ever appended to
_COLUMNS = "at, who, address, what, workflow, arguments, outcome"
_DAMAGED = frozenset({sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_ERROR})


class DamagedError(StateError):
    """The database is there and cannot be understood."""


@dataclass(frozen=True, slots=True)
class Author:
    """Who asked for a change, and from where."""

    who: str  # the name of a token, a command, or a setting; never a secret
    address: str = ""


@dataclass(frozen=True, slots=True)
class Change:
    """A line of the log."""

    author: Author
    what: str  # the kind of change
    workflow: str | None
    arguments: Mapping[str, Any]
    outcome: str = DONE  # or the message of the error that refused it
    at: datetime | None = None  # in UTC; set when it is written, as its number is
    number: int = 0


class Store:
    """One database, opened for writing; only one thread at a time may use it."""

    def __init__(self, path: Path, migrations: tuple[Migration, ...] = MIGRATIONS) -> None:
        """Open or make the database at `path`, with the newest schema.

        Raises `DamagedError` if it is not a sound database of ours, or of a newer wfserve; `StateError` if
        the system does not let us use it. Either way it is closed, and a sound one is as it was.
        """
        self._path = path
        with _failures_told(path):
            existed = path.exists()
            self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            try:
                self.is_new = self._prepare(migrations)
                if not existed:
                    sync(path.parent)
                self._try_to_write()
                self._checkpoint()
                self._opened = os.stat(path)
            except BaseException:
                self._database.close()
                raise

    def _prepare(self, migrations: tuple[Migration, ...]) -> bool:
        """Check the database and bring it to the newest schema; return whether it was empty."""
        self._run("PRAGMA journal_mode = WAL")
        self._run("PRAGMA synchronous = FULL")
        found = self._run("PRAGMA integrity_check(1)")[0][0]
        if found != "ok":
            raise DamagedError(f"{self._path} is damaged: {found}")
        application = self._run("PRAGMA application_id")[0][0]
        schema = self._run("PRAGMA user_version")[0][0]
        is_new = not (application or schema or self._run("SELECT 1 FROM sqlite_master LIMIT 1"))
        if not is_new and application != APPLICATION:
            raise DamagedError(f"{self._path} is not a database of wfserve")
        if schema > len(migrations):
            raise DamagedError(f"{self._path} was written by a newer wfserve (schema {schema})")
        self._migrate(migrations, schema)
        return is_new

    def _migrate(self, migrations: tuple[Migration, ...], schema: int) -> None:
        for number, statements in enumerate(migrations[schema:], schema + 1):
            with self._transaction():
                for statement in statements:
                    self._run(statement)
                self._run(f"PRAGMA application_id = {APPLICATION}")
                self._run(f"PRAGMA user_version = {number}")

    def _try_to_write(self) -> None:
        """Refuse a file that cannot be written now, and not at the first change; nothing is written."""
        self._run("BEGIN IMMEDIATE")  # which alone is granted on any file
        try:
            self._run("DELETE FROM change WHERE number < 0")
        finally:
            self._run("ROLLBACK")

    def read(self) -> dict[str, Workflow]:
        """Return every workflow by name, the first registered first. Raises `DamagedError`, `StateError`."""
        with _failures_told(self._path):
            return _workflows(self._path, self._database)

    def write(self, changed: Mapping[str, Workflow | None], change: Change) -> None:
        """Make workflows what `changed` says, None for none, and log `change`: both or neither.

        On the disk when this returns. Raises `StateError`, also if the database was removed or moved away
        since it was opened, and nothing has changed.
        """
        with _failures_told(self._path), self._transaction():
            self._refuse_another_file()
            for name, workflow in changed.items():
                if workflow is None:
                    self._run("DELETE FROM workflow WHERE name = ?", name)
                else:
                    document = encode(to_document(workflow))
                    self._run(
                        "INSERT INTO workflow (name, document, crc) VALUES (?, ?, ?) ON CONFLICT (name)"
                        " DO UPDATE SET document = excluded.document, crc = excluded.crc",
                        name,
                        document.decode(),
                        crc32(document),
                    )
            self._log(change)
        self._checkpoint()

    def _refuse_another_file(self) -> None:
        """Raise if nobody would find again what is written: `OSError`, or `StateError`."""
        if not os.path.samestat(os.stat(self._path), self._opened):
            raise StateError(f"{self._path} is another file than the one that was opened.")

    def _checkpoint(self) -> None:
        """Move the write-ahead log into the database."""
        with suppress(sqlite3.Error):  # what was committed has happened; the next one moves both
            self._run("PRAGMA wal_checkpoint(TRUNCATE)")

    def _log(self, change: Change) -> None:
        marks = ", ".join("?" * 7)
        self._run(
            f"INSERT INTO change ({_COLUMNS}) VALUES ({marks})",
            datetime.now(UTC).isoformat(timespec="milliseconds"),
            *map(_plain, (change.author.who, change.author.address, change.what)),
            change.workflow and _plain(change.workflow),
            _bounded(change.arguments),
            _plain(change.outcome),
        )
        self._run("DELETE FROM change WHERE number <= last_insert_rowid() - ?", MOST_CHANGES)

    def history(self, limit: int, before: int | None = None, workflow: str | None = None) -> list[Change]:
        """Return up to `limit` changes, the newest first: those below a number, and of one workflow.

        Raises `StateError`.
        """
        with _failures_told(self._path):
            rows = self._run(
                f"SELECT number, {_COLUMNS} FROM change WHERE (?1 IS NULL OR number < ?1)"
                " AND (?2 IS NULL OR workflow = ?2) ORDER BY number DESC LIMIT ?3",
                before,
                workflow,
                limit,
            )
            return [_change(row) for row in rows]

    def close(self) -> None:
        """Close the database."""
        self._database.close()

    def _run(self, statement: str, *values: object) -> list[Any]:
        return self._database.execute(statement, values).fetchall()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        self._run("BEGIN IMMEDIATE")
        try:
            yield
            self._run("COMMIT")
        finally:
            if self._database.in_transaction:  # it failed, and SQLite has not ended it by itself
                self._run("ROLLBACK")


def read_beside(path: Path) -> dict[str, Workflow]:
    """Return what `Store.read` does, of a database that a server may be writing to; nothing is changed.

    Raises as that does.
    """
    with (
        _failures_told(path),
        closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database,
    ):
        return _workflows(path, database)


def _workflows(path: Path, database: sqlite3.Connection) -> dict[str, Workflow]:
    rows = database.execute("SELECT name, document, crc FROM workflow ORDER BY position").fetchall()
    found = {name: _workflow(path, document, crc) for name, document, crc in rows}
    if any(name != workflow.name for name, workflow in found.items()):
        raise DamagedError(f"{path} is damaged: a workflow has another's name")
    return found


def _workflow(path: Path, document: str | bytes, crc: int) -> Workflow:
    text = document if isinstance(document, bytes) else str(document).encode()
    if crc32(text) != crc:  # a byte that is another would change a setting without a word
        raise DamagedError(f"{path} is damaged: a workflow has another checksum")
    try:
        return from_document(decode(text))
    except DocumentError as error:
        raise DamagedError(f"{path} is damaged: {error.message}") from None


def _plain(text: str) -> str:
    """Return `text`, up to a bound, as UTF-8 can have it; arguments of commands may hold what it cannot."""
    return text[:LONGEST_TEXT].encode(errors="backslashreplace").decode()


def _bounded(arguments: Mapping[str, Any]) -> str:
    text = json.dumps(dict(arguments), sort_keys=True, default=str)
    return text if len(text) <= LONGEST_ARGUMENTS else json.dumps({"too long, bytes": len(text)})


def _change(row: tuple[Any, ...]) -> Change:
    number, at, who, address, what, workflow, arguments, outcome = row
    try:
        when, given = datetime.fromisoformat(at), json.loads(arguments)
    except (ValueError, TypeError) as error:
        raise DamagedError(f"change {number} in the log is damaged: {error}") from None
    return Change(Author(who, address), what, workflow, given, outcome, when, number)


@contextmanager
def _failures_told(path: Path) -> Iterator[None]:
    """Tell a damaged database from a system that does not let us use it."""
    try:
        yield
    except sqlite3.Error as error:
        code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_CORRUPT) & 0xFF  # without its subtype
        if code in _DAMAGED or (code == sqlite3.SQLITE_READONLY and os.access(path, os.W_OK)):
            raise DamagedError(f"{path} is damaged: {error}") from error
        raise StateError(f"cannot use {path}: {error}") from error
    except UnicodeDecodeError as error:  # a name in the schema, or in a message about it
        raise DamagedError(f"{path} is damaged: {error}") from error
    except OSError as error:
        raise StateError(f"cannot use {path}: {error.strerror or error}") from error
