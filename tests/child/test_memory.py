"""Blocks of a batch's size are touched for the first time once, not with every batch."""

import subprocess
import sys

import pytest

FAULTS = """
import resource
from wfserve.child.memory import keep_freed

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        blocks = [bytearray(602_112) for _ in range(8)]
        del blocks
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

print(keep_freed())
faults()
print(faults())
"""


def test_freed_blocks_are_kept():
    said = subprocess.run([sys.executable, "-c", FAULTS], capture_output=True, text=True, check=True).stdout
    kept, faults = said.split()
    if kept == "False":
        pytest.skip("no glibc")
    assert int(faults) < 147  # the pages of one block of 160


PEAK = """
from wfserve.child import memory

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096

memory.keep_freed()
memory.MOST_FREE_BYTES, memory.KEPT_BYTES = 64 << 20, 1 << 20
began = resident()
blocks, pins = [], []
for _ in range(150):  # something small that lives behind each
    blocks.append(bytearray(1 << 20))
    pins.append(bytearray(2000))
del blocks
peak = resident() - began
memory.Peaks().settle()
print(peak >> 20, resident() - began >> 20)
"""


def test_what_is_left_of_a_peak_is_given_back_wherever_it_lies():
    said = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True).stdout
    peak, left = map(int, said.split())
    if peak < 100:
        pytest.skip("this C library gives all of it back")
    assert left < 20
