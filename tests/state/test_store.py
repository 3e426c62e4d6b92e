"""A database holds all of a change or nothing of it, and says what is wrong with it in one line."""

import shutil
import sqlite3
import tempfile
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path
from zlib import crc32

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.dying import MEMORY
from tests.states import AUTHOR
from wfserve.state import store as module
from wfserve.state.files import StateError
from wfserve.state.records import Content, Version, Workflow
from wfserve.state.store import DONE, MIGRATIONS, Author, Change, DamagedError, Store


def workflow(name, *versions):
    made = tuple(Version(version, Content("0" * 64, 1), "w.war") for version in versions)
    return Workflow(name, versions[0], made)


def change(what, workflow=None, **arguments):
    return Change(AUTHOR, what, workflow, arguments)


A, B = workflow("a", "1.0", "2.0"), workflow("b", "1.0")


@pytest.fixture
def path(tmp_path):
    return tmp_path / "state.sqlite"


@pytest.fixture
def store(path):
    opened = Store(path)
    yield opened
    opened.close()


def read(path):
    store = Store(path)
    try:
        return store.read(), [change.what for change in store.history(100)]
    finally:
        store.close()


def test_what_is_written_is_read_in_order(store, path):
    assert store.is_new
    store.write({"b": B, "a": A}, change("one"))
    store.write({"b": workflow("b", "3.0")}, change("two"))
    assert list(store.read().values()) == [workflow("b", "3.0"), A]
    store.write({"b": None}, change("three"))
    store.close()
    assert read(path) == ({"a": A}, ["three", "two", "one"])


def test_the_disk_is_waited_for(store):
    """FULL: the write-ahead log is synchronised before a commit returns."""
    assert store._run("PRAGMA synchronous") == [(2,)]
    assert store._run("PRAGMA journal_mode") == [("wal",)]


def test_others_read_while_it_is_open(store, path):
    store.write({"a": A}, change("one"))
    with sqlite3.connect(path) as reader:
        assert reader.execute("SELECT name FROM workflow").fetchall() == [("a",)]
    reader.close()


def test_the_log(store):
    before = datetime.now(UTC) - timedelta(seconds=1)
    store.write({}, change("one", "a", version="1.0"))
    store.write({}, Change(Author("who"), "two", "b", {}, "refused"))
    store.write({}, change("three"))
    three, two, one = store.history(10)
    assert (one.author, one.what, one.workflow, one.arguments) == (AUTHOR, "one", "a", {"version": "1.0"})
    assert (one.outcome, one.number) == (DONE, 1)
    assert before < one.at <= two.at <= three.at <= datetime.now(UTC)
    assert (two.author, two.outcome) == (Author("who", ""), "refused")
    assert store.history(1) == [three]
    assert store.history(10, before=3) == [two, one]
    assert store.history(10, workflow="a") == [one]


def test_the_log_is_bounded(store, monkeypatch):
    monkeypatch.setattr(module, "MOST_CHANGES", 3)
    for number in range(5):
        store.write({}, change(str(number)))
    assert [each.what for each in store.history(10)] == ["4", "3", "2"]
    store.write({}, change("long", text="x" * module.LONGEST_ARGUMENTS))
    assert store.history(1)[0].arguments == {"too long, bytes": module.LONGEST_ARGUMENTS + 12}


def test_the_log_takes_what_is_not_text(store):
    odd = "a\udcff"
    store.write({}, Change(Author(odd, odd), odd, odd, {"url": odd, "path": shutil}, odd))
    assert store.history(1)[0].what == r"a\udcff"
    assert store.history(1)[0].arguments["url"] == odd


def test_a_change_that_fails_has_changed_nothing(store):
    store.write({"a": A}, change("one"))
    with pytest.raises(TypeError):
        store.write(
            {"a": None, "b": B}, Change(Author("who"), "two", None, {1: 1, "a": 1})
        )  # cannot be sorted
    assert store.read() == {"a": A}
    store.write({"b": B}, change("three"))
    assert store.read() == {"a": A, "b": B}


def test_a_full_disk(store):
    store.write({"a": A}, change("one"))
    pages = store._run("PRAGMA page_count")[0][0]
    store._run(f"PRAGMA max_page_count = {pages}")
    large = workflow("large", *(f"1.{n}" for n in range(500)))
    with pytest.raises(StateError, match="database or disk is full"):
        store.write({"large": large, "a": None}, change("two"))
    assert store.read() == {"a": A}
    store._run("PRAGMA max_page_count = 100000")
    store.write({"large": large}, change("three"))
    assert store.read() == {"a": A, "large": large}


def test_one_that_another_writes_to(store, path):
    other = sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    store._run("PRAGMA busy_timeout = 1")
    with pytest.raises(StateError, match="database is locked"):
        store.write({"a": A}, change("one"))
    other.close()
    store.write({"a": A}, change("one"))


def test_damage_to_the_log_undoes_nothing(store, path, tmp_path):
    """All that was acknowledged is in the database; a log that cannot be read is no change at all."""
    for number in range(3):
        store.write({"a": workflow("a", f"{number}.0")}, change(str(number)))
        copy = tmp_path / "copy.sqlite"
        shutil.copy(path, copy)
        assert read(copy)[0] == {"a": workflow("a", f"{number}.0")}


def test_a_change_waits_for_nobody_who_reads(store, path):
    store.write({"a": A}, change("one"))
    store._run("PRAGMA busy_timeout = 1")
    wal = path.with_name(path.name + "-wal")
    with closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT name FROM workflow").fetchall() == [("a",)]
        store.write({"b": B}, change("two"))
        assert wal.stat().st_size
        assert store.read() == {"a": A, "b": B}
    store.write({}, change("three"))
    assert not wal.stat().st_size


@pytest.mark.parametrize("becomes", ["nothing", "another"])
def test_a_database_that_is_taken_away_is_not_written_to(store, path, tmp_path, becomes):
    """Else the change would be acknowledged, and gone with the process."""
    store.write({"a": A}, change("one"))
    away = path.rename(tmp_path / "away.sqlite")
    if becomes == "another":
        shutil.copy(away, path)
    with pytest.raises(StateError, match="No such file" if becomes == "nothing" else "another file than"):
        store.write({"a": B}, change("two"))
    away.rename(path)
    store.write({"b": B}, change("three"))
    assert store.read() == {"a": A, "b": B}


def test_a_power_failure_at_any_byte_of_the_log(store, path, tmp_path, monkeypatch):
    """Whatever of the write-ahead log has come to the disk, it is the state before or after the change."""
    store.write({"a": A}, change("one"))
    wal = path.with_name(path.name + "-wal")
    monkeypatch.setattr(store, "_checkpoint", lambda: None)
    store.write({"a": None, "b": B}, change("two"))
    content = wal.read_bytes()
    found = []
    for end in range(0, len(content) + 1, 97):
        copy = tmp_path / "copy.sqlite"
        shutil.copy(path, copy)
        (tmp_path / "copy.sqlite-wal").write_bytes(content[:end])
        found.append(read(copy))
        for left in tmp_path.glob("copy.sqlite*"):
            left.unlink()
    old, new = ({"a": A}, ["one"]), ({"b": B}, ["two", "one"])
    assert found == [old] * found.count(old) + [new] * found.count(new)
    assert found.count(old) > 10


def cut(path):
    path.write_bytes(path.read_bytes()[:5000])


def overwrite(path):
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)


def contradict(path):
    """Let the index of names say another one."""
    content = path.read_bytes()
    for start in range(0, len(content), 4096):
        if content[start] == 0x0A:  # a leaf of an index
            page = content[start : start + 4096].replace(b"distinct", b"distinkt")
            content = content[:start] + page + content[start + 4096 :]
    path.write_bytes(content)


def garble_schema(path):
    path.write_bytes(path.read_bytes().replace(b"TABLE workflow (", b"TABLE workf\xf2ow ("))


def statement(text):
    def run(path):
        with sqlite3.connect(path) as database:
            database.execute(text)
        database.close()

    return run


def document(text):
    change = f"document = CAST(x'{text.hex()}' AS TEXT), crc = {crc32(text)}"
    return statement(f"UPDATE workflow SET {change}")


DAMAGES = {
    "no database": (lambda path: path.write_text("something else, and long enough" * 500), "not a database"),
    "cut off": (cut, "is damaged"),
    "overwritten": (overwrite, "is damaged"),
    "an index that is wrong": (contradict, "is damaged: .*missing from index"),
    "a schema that is no text": (garble_schema, "is damaged"),
    "another program's": (statement("PRAGMA application_id = 1"), "not a database of wfserve"),
    "newer": (statement("PRAGMA user_version = 99"), r"written by a newer wfserve \(schema 99\)"),
    "no table": (statement("DROP TABLE workflow"), "no such table: workflow"),
    "another byte": (
        statement("UPDATE workflow SET document = replace(document, 'w.war', 'v.war')"),
        "is damaged: a workflow has another checksum",
    ),
    "no workflow": (document(b"{}"), "is damaged: not a workflow: its versions"),
    "no JSON": (document(b"{"), "is damaged: not JSON"),
    "no text": (document(b"\xff"), "is damaged"),
    "a blob": (statement("UPDATE workflow SET document = x'ff'"), "is damaged"),
    "a number": (statement("UPDATE workflow SET document = 1"), "is damaged"),
    "another's name": (statement("UPDATE workflow SET name = 'b'"), "another's name"),
}


@pytest.mark.parametrize(("damage", "told"), DAMAGES.values(), ids=DAMAGES)
def test_damage(store, path, damage, told):
    store.write({"distinct": workflow("distinct", "1.0")}, change("one"))
    store.close()
    damage(path)
    before = path.read_bytes()
    with pytest.raises(DamagedError, match=told):
        read(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("column", ["at", "arguments"])
@pytest.mark.parametrize("value", ["'x'", "x'ff'"])
def test_a_damaged_log(store, path, column, value):
    store.write({"a": A}, change("one"))
    statement(f"UPDATE change SET {column} = {value}")(path)
    with pytest.raises(DamagedError, match="change 1 in the log is damaged"):
        store.history(1)
    assert store.read() == {"a": A}


@settings(max_examples=50)
@given(st.data())
def test_a_file_of_which_any_byte_is_another(data):
    """It is read as it was, or told to be damaged."""
    with tempfile.TemporaryDirectory(dir=MEMORY) as name:
        path = Path(name, "state.sqlite")
        made = Store(path)
        made.write({"a": A, "b": B}, change("one"))
        made.close()
        content = bytearray(path.read_bytes())
        content[data.draw(st.integers(0, len(content) - 1))] = data.draw(st.integers(0, 255))
        shortest = 2  # one byte or none is a new database to SQLite; `open_state` knows better
        path.write_bytes(content[: data.draw(st.just(len(content)) | st.integers(shortest, len(content)))])
        with suppress(DamagedError):
            assert read(path)[0] == {"a": A, "b": B}


def test_a_name_that_is_no_file(tmp_path):
    (tmp_path / "state.sqlite").mkdir()
    with pytest.raises(StateError, match="unable to open database file"):
        Store(tmp_path / "state.sqlite")


def test_migrations_run_once_each_and_in_order(path):
    first = Store(path)
    first.write({"a": A}, change("one"))
    first.close()
    longer = (*MIGRATIONS, ("ALTER TABLE change ADD COLUMN host TEXT",), ("UPDATE change SET host = 'here'",))
    for _ in range(2):
        second = Store(path, longer)
        assert second._run("SELECT host FROM change") == [("here",)]
        assert second._run("PRAGMA user_version") == [(3,)]
        assert second.read() == {"a": A}
        assert not second.is_new
        second.close()
    with pytest.raises(DamagedError, match="newer"):
        Store(path)


def test_a_migration_that_fails_has_changed_nothing(path):
    Store(path).close()
    with pytest.raises(DamagedError, match="no such table: nowhere"):
        Store(path, (*MIGRATIONS, ("DROP TABLE change", "SELECT * FROM nowhere")))
    assert read(path) == ({}, [])
