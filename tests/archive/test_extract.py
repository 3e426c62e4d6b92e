"""Extraction stays inside its directory and its limits, or leaves nothing."""

import gzip
import io
import stat
import tarfile
import zipfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from wfserve.archive.extract import ArchiveError, ArchiveKind, ExtractLimits, container_of, extract, sniff
from wfserve.errors import TooLargeError, WfserveError

LIMITS = ExtractLimits()


def zip_of(path: Path, entries: dict[str, bytes], **attributes: object) -> Path:
    """Write a zip whose entries all have `attributes`."""
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in entries.items():
            info = zipfile.ZipInfo(name)
            archive.writestr(info, content)
            for key, value in attributes.items():
                setattr(archive.infolist()[-1], key, value)
    return path


def tar_of(path: Path, entries: dict[str, bytes], **attributes: object) -> Path:
    """Write a tar.gz whose entries all have `attributes`; a name that ends in / is a directory."""
    with tarfile.open(path, "w:gz") as archive:
        for name, content in entries.items():
            info = tarfile.TarInfo(name.rstrip("/"))
            info.size = len(content)
            info.type = tarfile.DIRTYPE if name.endswith("/") else tarfile.REGTYPE
            for key, value in attributes.items():
                setattr(info, key, value)
            archive.addfile(info, io.BytesIO(content))
    return path


def tree(root: Path) -> dict[str, bytes]:
    """Return the files below `root`."""
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def refusal(path: Path, into: Path, limits: ExtractLimits = LIMITS) -> WfserveError:
    """Return why `path` is refused, having checked that nothing is left."""
    before = tree(into.parent)
    with pytest.raises(WfserveError) as caught:
        extract(path, into, limits)
    assert not into.exists()
    assert tree(into.parent) == before
    return caught.value


def test_zip(tmp_path: Path) -> None:
    archive = zip_of(
        tmp_path / "a", {"WAR-INF/MANIFEST.json": b"{}", "empty/": b"", "./a/b.py": b"x" * 3_000_000}
    )
    extract(archive, tmp_path / "out", LIMITS)
    assert tree(tmp_path / "out") == {"WAR-INF/MANIFEST.json": b"{}", "a/b.py": b"x" * 3_000_000}
    assert (tmp_path / "out/empty").is_dir()


def test_tar_loses_its_first_component(tmp_path: Path) -> None:
    entries = {
        "m/": b"",
        "m/MAR-INF/": b"",
        "m/MAR-INF/MANIFEST.json": b"{}",
        "m/a.pt": b"x" * 70_000,
        "top": b"t",
    }
    extract(tar_of(tmp_path / "a", entries), tmp_path / "out", LIMITS)
    assert tree(tmp_path / "out") == {"MAR-INF/MANIFEST.json": b"{}", "a.pt": b"x" * 70_000, "top": b"t"}


def test_tar_of_the_current_directory(tmp_path: Path) -> None:
    extract(tar_of(tmp_path / "a", {"./": b"", "./a/b": b"1"}), tmp_path / "out", LIMITS)
    assert tree(tmp_path / "out") == {"a/b": b"1"}


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/x", "a/..", "..", "//x"])
def test_zip_slip(tmp_path: Path, make, name: str) -> None:  # type: ignore[no-untyped-def]
    error = refusal(make(tmp_path / "a", {name: b"x"}), tmp_path / "out")
    assert error.message == f"Detected Zip Slip vulnerability: {name}"


@pytest.mark.parametrize("make", [zip_of, tar_of])
@pytest.mark.parametrize("name", ["m/" + "x" * 256, "m/" + "d/" * 600 + "x"])
def test_names_that_no_file_can_have(tmp_path: Path, make, name: str) -> None:  # type: ignore[no-untyped-def]
    assert "cannot be a path" in refusal(make(tmp_path / "a", {name: b"x"}), tmp_path / "out").message


@pytest.mark.parametrize(
    "entries",
    [
        [("m/a", b"1"), ("m/a", b"2")],
        [("m/a", b"1"), ("m/./a", b"1")],
        [("m/a", b""), ("m/a/b", b"")],
        [("m/a/b", b""), ("m/a", b"")],
    ],
)
def test_duplicates(tmp_path: Path, entries: list[tuple[str, bytes]]) -> None:
    with tarfile.open(tmp_path / "tar", "w:gz") as tar:
        for name, content in entries:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    with zipfile.ZipFile(tmp_path / "zip", "w") as archive:
        for name, content in entries:
            is_new = name not in archive.namelist()  # zipfile itself warns of equal names
            archive.writestr(name if is_new else name.replace("m/", "m//"), content)
    for path in (tmp_path / "tar", tmp_path / "zip"):
        assert "two entries of one name" in refusal(path, tmp_path / "out").message


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR, stat.S_IFBLK, stat.S_IFSOCK])
def test_odd_zip_entries(tmp_path: Path, kind: int) -> None:
    archive = zip_of(tmp_path / "a", {"x": b"/etc/passwd"}, external_attr=(kind | 0o777) << 16)
    assert refusal(archive, tmp_path / "out").message.startswith("Only files and directories")


@pytest.mark.parametrize(
    "kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE]
)
def test_odd_tar_entries(tmp_path: Path, kind: bytes) -> None:
    archive = tar_of(tmp_path / "a", {"m/x": b""}, type=kind, linkname="/etc/passwd")
    assert refusal(archive, tmp_path / "out").message.startswith("Only files and directories")


@pytest.mark.parametrize(
    ("attributes", "message"),
    [({"flag_bits": 1}, "Encrypted"), ({"compress_type": zipfile.ZIP_LZMA}, "Only stored and deflated")],
)
def test_zip_features(tmp_path: Path, attributes: dict[str, object], message: str) -> None:
    assert message in refusal(zip_of(tmp_path / "a", {"x": b"1"}, **attributes), tmp_path / "out").message


def test_wrong_encodings(tmp_path: Path) -> None:
    archive = zip_of(tmp_path / "a", {"é": b"1"})
    archive.write_bytes(archive.read_bytes().replace("é".encode(), b"\xff\xfe"))
    assert isinstance(refusal(archive, tmp_path / "out"), ArchiveError)
    path = tar_of(tmp_path / "b", {"m/x": b""}, name="m/\udcff")
    assert "not valid UTF-8" in refusal(path, tmp_path / "out").message


def test_limits(tmp_path: Path) -> None:
    entries = {f"m/{i}/{i}": b"x" * 100 for i in range(10)}
    for make in (zip_of, tar_of):
        path = make(tmp_path / "a", entries)
        extract(path, tmp_path / make.__name__, ExtractLimits(max_bytes=1000, max_files=21))
        for limits in (ExtractLimits(max_bytes=999), ExtractLimits(max_files=19)):
            assert isinstance(refusal(path, tmp_path / "out", limits), TooLargeError)


def test_a_bomb_is_cut_short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("wfserve.archive.extract.RATIO_FLOOR", 1 << 20)
    with zipfile.ZipFile(tmp_path / "zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("zeros", bytes(8 << 20))
    tar_of(tmp_path / "tar", {"m/zeros": bytes(8 << 20)})
    for path in (tmp_path / "zip", tmp_path / "tar"):
        assert isinstance(refusal(path, tmp_path / "out"), TooLargeError)
        extract(path, tmp_path / f"{path.name}.out", ExtractLimits(max_ratio=5000))


def test_a_tar_header_is_not_read_into_memory_whole(tmp_path: Path) -> None:
    path = tar_of(tmp_path / "a", {"m/x": b""}, pax_headers={"comment": "x" * (4 << 20)})
    assert isinstance(refusal(path, tmp_path / "out"), TooLargeError)


def test_a_zip_directory_is_not_read_into_memory_whole(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", {f"{i:0200}": b"" for i in range(10_000)})
    error = refusal(path, tmp_path / "out", ExtractLimits(max_files=10))
    assert (error.status, error.message) == (413, "The archive's directory is too large.")


@pytest.mark.parametrize("make", [zip_of, tar_of])
def test_truncated(tmp_path: Path, make) -> None:  # type: ignore[no-untyped-def]
    whole = make(tmp_path / "a", {"m/x": bytes(range(256)) * 40, "m/y": b"1"}).read_bytes()
    for cut in range(4, len(whole), max(1, len(whole) // 40)):
        (tmp_path / "b").write_bytes(whole[:cut])
        assert isinstance(refusal(tmp_path / "b", tmp_path / "out"), ArchiveError)


def test_a_corrupt_entry(tmp_path: Path) -> None:
    path = zip_of(tmp_path / "a", {"x": b"content"})
    path.write_bytes(path.read_bytes().replace(b"content", b"c0ntent"))
    assert "Bad CRC-32" in refusal(path, tmp_path / "out").message


@pytest.mark.parametrize(
    "content", [b"", b"models: {}", b"PK\x03\x04", b"\x1f\x8b", gzip.compress(b"x" * 600)]
)
def test_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "a").write_bytes(content)
    assert isinstance(refusal(tmp_path / "a", tmp_path / "out"), ArchiveError)


def test_an_existing_directory_is_not_touched(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out/mine").touch()
    with pytest.raises(FileExistsError):
        extract(zip_of(tmp_path / "a", {"x": b""}), tmp_path / "out", LIMITS)
    assert tree(tmp_path / "out") == {"mine": b""}


@pytest.mark.parametrize(
    ("folder", "kind"), [("WAR-INF", ArchiveKind.WORKFLOW), ("MAR-INF", ArchiveKind.MODEL)]
)
def test_sniff(tmp_path: Path, folder: str, kind: ArchiveKind) -> None:
    name = f"{folder}/MANIFEST.json"
    assert sniff(zip_of(tmp_path / "a.mar", {"big": bytes(3 << 20), name: b"{}"})) is kind
    assert sniff(tar_of(tmp_path / "b.war", {"m/big": bytes(3 << 20), f"m/{name}": b"{}"})) is kind
    extract(tmp_path / "a.mar", tmp_path / "c", LIMITS)
    assert sniff(tmp_path / "c") is kind


def test_sniff_refuses_the_rest(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "text").write_text("hello")
    for path in (tmp_path / "empty", tmp_path / "text", zip_of(tmp_path / "a", {"x": b""})):
        with pytest.raises(ArchiveError):
            sniff(path)


def test_container_is_told_by_content(tmp_path: Path) -> None:
    assert container_of(zip_of(tmp_path / "a.tar.gz", {})) == "zip"
    assert container_of(tar_of(tmp_path / "a.zip", {})) == "tar.gz"
    assert container_of(tmp_path) == "directory"
    (tmp_path / "text").write_text("hello")
    assert container_of(tmp_path / "text") is None


@pytest.mark.parametrize("make", [zip_of, tar_of])
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_is_told_or_harmless(tmp_path: Path, make, data: st.DataObject) -> None:  # type: ignore[no-untyped-def]
    whole = make(tmp_path / "a", {"m/d/x": b"some text" * 9, "m/y": b"1", "m/é": b"2"}).read_bytes()
    if make is tar_of:
        whole = gzip.decompress(whole)
    mutable = bytearray(whole)
    for _ in range(data.draw(st.integers(1, 4))):
        mutable[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (tmp_path / "b").write_bytes(gzip.compress(mutable, 1) if make is tar_of else mutable)
    out = tmp_path / "w" / "out"
    try:
        extract(tmp_path / "b", out, ExtractLimits(max_bytes=1 << 20, max_files=50))
    except WfserveError:
        assert list(out.parent.iterdir()) == []
    else:
        for path in sorted(out.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        out.rmdir()
