"""Readings of this machine agree with themselves, and with what the standard library knows."""

import os
import shutil
import time

import pytest

from wfserve.measure import host


def test_memory_in_use_and_left_is_all_there_is():
    memory = host.memory()
    total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert memory.used + memory.available == pytest.approx(total, rel=0.01)
    assert memory.percent == pytest.approx(100 * memory.used / total, abs=1)


def test_the_disk_is_that_of_the_root():
    disk, known = host.disk(), shutil.disk_usage("/")
    assert disk.used == pytest.approx(known.used, rel=0.05)
    assert disk.available == pytest.approx(known.free, rel=0.05)
    assert disk.percent == pytest.approx(100 * known.used / (known.used + known.free), abs=1)


def test_processors_were_busy_since_the_last_reading():
    cpu = host.Cpu()
    assert 0 < cpu.percent() <= 100
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    assert 0 < cpu.percent() <= 100


def test_no_time_is_no_use(monkeypatch):
    monkeypatch.setattr(host, "_ticks", lambda: (5, 10))
    cpu = host.Cpu()
    assert (cpu.percent(), cpu.percent()) == (50, 0)
