"""A content is whole or not there, whoever dies or writes to what it came from."""

import hashlib
import os
import threading
import zipfile

import pytest

from tests.dying import deaths
from tests.state import acts
from wfserve.archive.extract import ExtractLimits, extract
from wfserve.errors import BadRequestError
from wfserve.state.contents import Contents
from wfserve.state.files import StateError
from wfserve.state.records import Content

DATA = b"an archive"
CONTENT = Content(hashlib.sha256(DATA).hexdigest(), len(DATA))


@pytest.fixture
def archive(tmp_path):
    path = tmp_path / "given.war"
    path.write_bytes(DATA)
    return path


@pytest.fixture
def contents(tmp_path):
    return Contents(tmp_path / "contents")


def put(contents, path):
    with contents.transfer() as transfer:
        return transfer.put(path)


def files(directory):
    return sorted(path.name for path in directory.rglob("*") if path.is_file())


def test_a_copy_is_stored_under_its_digest(contents, archive, tmp_path):
    assert put(contents, archive) == CONTENT
    archive.write_bytes(b"something else")
    assert contents.verify(CONTENT).read_bytes() == DATA
    assert contents.path(CONTENT) == tmp_path / "contents" / CONTENT.digest
    assert contents.path(CONTENT).stat().st_mode & 0o777 == 0o400
    assert (tmp_path / "contents").stat().st_mode & 0o777 == 0o700


def test_a_file_is_adopted(contents, archive, tmp_path):
    with contents.transfer() as transfer:
        assert transfer.adopt(archive) == CONTENT
    assert not archive.exists()
    assert contents.verify(CONTENT).read_bytes() == DATA


def test_equal_contents_are_one_file_also_when_put_at_once(contents, archive, tmp_path):
    threads = [threading.Thread(target=put, args=(contents, archive)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    contents.verify(CONTENT)
    assert files(tmp_path / "contents") == [CONTENT.digest]


def test_a_process_that_dies_at_any_step_leaves_nothing_or_the_whole(archive, memory):
    """The first death after the rename leaves the whole, and so do all later ones."""
    left = []
    where = memory / "contents"
    for _ in deaths("wfserve/state", acts.put, where, archive):
        contents = Contents(where)
        left.append(files(where))
        if left[-1]:
            contents.verify(CONTENT)
            (where / CONTENT.digest).unlink()
    kinds = [bool(found) for found in left]
    assert kinds == sorted(kinds)
    assert set(map(tuple, left)) == {(), (CONTENT.digest,)}


def test_what_is_on_the_disk_when_it_is_named(contents, archive, monkeypatch):
    """The file is synchronised before it is renamed, and its directory after that."""
    calls = []
    fsync, replace = os.fsync, os.replace

    def noting_fsync(descriptor):
        calls.append(os.path.basename(os.readlink(f"/proc/self/fd/{descriptor}")))
        fsync(descriptor)

    def noting_replace(source, target):
        calls.append((os.path.basename(source), os.path.basename(target)))
        replace(source, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(os, "replace", noting_replace)
    put(contents, archive)
    assert calls == [calls[0], (calls[0], CONTENT.digest), "contents"]


@pytest.mark.parametrize(
    ("damage", "told"),
    [
        (lambda path: path.unlink(), "is missing from"),
        (lambda path: os.truncate(path, 3), "3 bytes instead of 10.*put aside as"),
        (lambda path: (path.chmod(0o600), path.write_bytes(b"AN ARCHIVE")), "the SHA-256.*put aside as"),
    ],
)
def test_damage_is_told_and_put_aside_and_a_further_put_heals_it(contents, archive, damage, told):
    put(contents, archive)
    damage(contents.path(CONTENT))
    with pytest.raises(StateError, match=told):
        contents.verify(CONTENT)
    with pytest.raises(StateError, match="is missing from"):
        contents.path(CONTENT)
    put(contents, archive)
    contents.verify(CONTENT)


def test_damage_that_nobody_has_seen_yet_is_healed_too(contents, archive):
    put(contents, archive)
    path = contents.path(CONTENT)
    path.chmod(0o600)
    path.write_bytes(b"AN ARCHIVE")
    put(contents, archive)
    contents.verify(CONTENT)


def test_what_is_not_used_is_collected_but_what_is_put_aside(contents, archive, tmp_path):
    other = tmp_path / "other.mar"
    other.write_bytes(b"a model")
    used, unused = put(contents, archive), put(contents, other)
    (tmp_path / "contents" / f"{unused.digest}.damaged-20250101").touch()
    assert contents.collect(lambda: {used.digest}) == [unused.digest]
    assert files(tmp_path / "contents") == sorted([used.digest, f"{unused.digest}.damaged-20250101"])


def test_what_is_put_is_not_collected_before_its_transfer_ends(contents, archive):
    with contents.transfer() as one:
        one.put(archive)
        with contents.transfer() as other:
            other.put(archive)
        assert contents.collect(set) == []
    assert contents.collect(set) == [CONTENT.digest]


def test_a_transfer_that_fails_holds_nothing_any_more(contents, archive):
    def fail():
        with contents.transfer() as transfer:
            transfer.put(archive)
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert contents.collect(set) == [CONTENT.digest]


def test_what_is_used_is_asked_for_while_nothing_can_end_a_transfer(contents, archive):
    """Else what was committed after the question, and let go of before the removal, would be lost."""
    committed = set()
    asked, ended = threading.Event(), threading.Event()

    def transfer():
        with contents.transfer() as given:
            given.put(archive)
            asked.wait()
            committed.add(CONTENT.digest)
        ended.set()

    def used():
        before = set(committed)
        asked.set()
        ended.wait(0.05)  # in vain
        return before

    thread = threading.Thread(target=transfer)
    thread.start()
    while not contents._held:
        os.sched_yield()
    assert contents.collect(used) == []
    thread.join()


def test_a_directory_becomes_the_same_zip_each_time(contents, tmp_path):
    def model(name, order):
        root = tmp_path / name
        for path in order:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(path)
        (root / "empty").mkdir()
        (root / "link").symlink_to(root / "b")
        return root

    one = put(contents, model("one", ["a/x.py", "b"]))
    assert put(contents, model("two", ["b", "a/x.py"])) == one
    extract(contents.path(one), tmp_path / "out", ExtractLimits())
    assert {path.relative_to(tmp_path / "out").as_posix() for path in (tmp_path / "out").rglob("*")} == {
        *("a", "a/x.py", "b", "empty", "link"),
    }
    assert (tmp_path / "out" / "link").read_text() == "b"
    with zipfile.ZipFile(contents.path(one)) as packed:
        assert packed.testzip() is None


def _loop(root):
    (root / "a").mkdir()
    (root / "a" / "back").symlink_to(root)


@pytest.mark.parametrize(
    "make",
    [
        _loop,
        lambda root: os.mkfifo(root / "pipe"),
        lambda root: (root / "dangling").symlink_to("nowhere"),
        lambda root: open(os.fsencode(root) + b"/\xff", "w").close(),
        lambda root: os.makedirs(root / "/".join("d" * 80)),
    ],
    ids=["loop", "pipe", "dangling link", "name", "depth"],
)
def test_directories_that_cannot_be_packed(contents, tmp_path, make):
    root = tmp_path / "model"
    root.mkdir()
    make(root)
    with pytest.raises(BadRequestError):
        put(contents, root)
    assert files(tmp_path / "contents") == []


def test_what_cannot_be_read_or_written(contents, archive, tmp_path, monkeypatch):
    with pytest.raises(StateError, match=r"cannot store the archive .*absent: No such file"):
        put(contents, tmp_path / "absent")

    def refuse(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(StateError, match="No space left on device"):
        put(contents, archive)
    assert files(tmp_path / "contents") == []
