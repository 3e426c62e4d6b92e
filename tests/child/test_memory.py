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
