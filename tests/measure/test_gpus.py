"""GPUs are what nvidia-smi says they are; without it, or once it fails, there are none."""

import math

import pytest

from wfserve.measure.gpus import Gpu, Gpus


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
