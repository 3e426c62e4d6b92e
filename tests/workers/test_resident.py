"""Memory is counted for a process and what it has started in its group."""

import os
import subprocess
import sys

from wfserve.workers.resident import resident_bytes

HOLD = """
import os, sys
held = bytearray(os.urandom(1)) * {size}
if {helpers}:
    import subprocess
    helper = subprocess.Popen([sys.executable, "-c", {inner!r}], stdin=sys.stdin)
print("ready", flush=True)
sys.stdin.read()
"""
MIB = 1 << 20


def test_a_group_is_counted_whole():
    inner = HOLD.format(size=40 * MIB, helpers=False, inner="")
    code = HOLD.format(size=20 * MIB, helpers=True, inner=inner)
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=pipe, stdout=pipe, text=True, process_group=0
    ) as process:
        assert process.stdout.readline() + process.stdout.readline() == "ready\n" * 2
        held = resident_bytes([process.pid])[process.pid]
        assert 60 * MIB < held < 200 * MIB
        process.communicate()
    assert resident_bytes([process.pid]) == {process.pid: 0}


def test_other_groups_are_not_counted():
    assert resident_bytes([]) == {}
    assert resident_bytes([0, os.getpgid(0)]).keys() == {0, os.getpgid(0)}
