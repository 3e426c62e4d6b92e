"""What a client says of its hurry is understood or refused; what it does not say is no hurry."""

import math

import pytest
import trio

from wfserve.errors import BadRequestError
from wfserve.http.urgency import asked_for

HOST = (b"host", b"x")


async def test_neither_is_no_deadline_and_the_middle_priority(autojump_clock):
    assert asked_for([HOST]) == (math.inf, 5)


async def test_milliseconds_from_now_and_a_priority(autojump_clock):
    headers = [HOST, (b"x-timeout-ms", b" 250 "), (b"x-priority", b"9")]
    assert asked_for(headers) == (trio.current_time() + 0.25, 9)


@pytest.mark.parametrize("text", [b"", b"0", b"-1", b"1.5", b"1e3", b"2147483648", "١".encode(), b"9" * 99])
async def test_no_timeout(autojump_clock, text):
    with pytest.raises(BadRequestError, match="X-Timeout-Ms must be a whole number from 1 to 2147483647"):
        asked_for([(b"x-timeout-ms", text)])


@pytest.mark.parametrize("text", [b"", b"10", b"-1", b"high"])
async def test_no_priority(autojump_clock, text):
    with pytest.raises(BadRequestError, match="X-Priority must be a whole number from 0 to 9"):
        asked_for([(b"x-priority", text)])
