"""GPUs are what nvidia-smi says they are; without it, or once it fails, there are none."""

import math

import pytest

from wfserve.measure.gpus import Gpu, Gpus, count, visible


@pytest.fixture
def says(tmp_path, monkeypatch):
    """Have a program of that name say something."""

    def says(code):
        (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{code}\n")
        (tmp_path / "nvidia-smi").chmod(0o755)

    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    return says


async def test_each_is_read(says):
    says("echo '0, 1024, 81559, 37'; echo '1, 0, 81559, 0'")
    assert await Gpus().read() == [Gpu("0", 1024, 81559, 37), Gpu("1", 0, 81559, 0)]


async def test_what_one_cannot_tell_is_no_number(says):
    says("echo '0, 1024, 81559, [N/A]'")
    (gpu,) = await Gpus().read()
    assert math.isnan(gpu.busy)


async def test_a_reading_is_kept_for_a_while(says, monkeypatch):
    says("echo '0, 1, 2, 3'")
    gpus = Gpus()
    first = await gpus.read()
    says("echo '0, 1, 2, 99'")
    assert await gpus.read() == first
    monkeypatch.setattr("wfserve.measure.gpus.KEEP", -1)
    assert (await gpus.read())[0].busy == 99


@pytest.mark.parametrize("code", ["exit 9", "echo Failed", "echo '0, x, 2, 3'", "echo 0", "printf '\\377'"])
async def test_one_that_fails_is_not_asked_again(says, code, caplog):
    says(code)
    gpus = Gpus()
    assert await gpus.read() == []
    says("echo '0, 1, 2, 3'")
    gpus._read_at = -math.inf
    assert await gpus.read() == []
    assert len(caplog.records) == 1


async def test_one_that_hangs_is_given_up(says, monkeypatch):
    says("exec sleep 3600")
    monkeypatch.setattr("wfserve.measure.gpus.PATIENCE", 0.05)
    assert await Gpus().read() == []


async def test_where_it_is_not_there_are_none(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await Gpus().read() == []


UUIDS = ["GPU-1a2b", "GPU-1a3c", "GPU-9f00", "GPU-77aa"]
LISTING = "; ".join(f"echo {uuid}" for uuid in UUIDS)


@pytest.mark.parametrize(
    ("listed", "expected"),
    [
        (None, 4),
        ("0", 1),
        ("2,0", 2),
        (" 3 , 1 ", 2),
        ("", 0),
        ("-1", 0),
        ("0,-1,1", 1),
        ("0,4,1", 1),
        ("0,1,0", 0),
        ("0,GPU-1a2b", 0),
        ("GPU-9f00,1", 2),
        ("GPU-9,GPU-1a3", 2),
        ("GPU-1a", 0),
        ("MIG-55/1/0", 1),
        ("MIG-55,MIG-66", 1),
        ("NoDevFiles", 0),
    ],
)
def test_what_cuda_shows(listed, expected):
    assert visible(listed, UUIDS) == expected


def test_no_name_names_no_gpu():
    assert visible("", UUIDS[:1]) == 0


@pytest.mark.parametrize(
    ("environ", "at_most", "expected"),
    [
        ({}, None, 4),
        ({}, 2, 2),
        ({}, 9, 4),
        ({"CUDA_VISIBLE_DEVICES": "1,2"}, None, 2),
        ({"CUDA_VISIBLE_DEVICES": "1,2"}, 1, 1),
    ],
)
async def test_how_many_workers_may_use(says, environ, at_most, expected):
    says(LISTING)
    assert await count(environ, at_most) == expected


async def test_nobody_is_asked_where_none_is_wanted(says, tmp_path):
    says(f"touch {tmp_path}/asked; {LISTING}")
    assert await count({}, 0) == 0
    assert not (tmp_path / "asked").exists()


@pytest.mark.parametrize("code", ["exit 9", "printf '\\377'", "exec sleep 3600"])
async def test_where_gpus_cannot_be_listed_workers_get_none(says, code, caplog, monkeypatch):
    monkeypatch.setattr("wfserve.measure.gpus.START_PATIENCE", 0.2)
    says(code)
    assert await count({}) == 0
    assert "workers get none" in caplog.text


async def test_without_the_program_workers_get_none_quietly(tmp_path, monkeypatch, caplog):
    monkeypatch.setenv("PATH", str(tmp_path))
    assert await count({}) == 0
    assert not caplog.records
