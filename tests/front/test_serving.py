"""A front end serves the newest of what it was shown, in whatever order it comes to it."""

from itertools import permutations

import pytest

from tests.state.test_records import BOTH
from wfserve.config import Config
from wfserve.front.messages import Show, Shown
from wfserve.front.serving import Front
from wfserve.transport.memory import MemoryTransport

SHOWS = (Show(1, "w", Shown(BOTH, {})), Show(2, "w", None), Show(3, "w", Shown(BOTH, {})))


@pytest.mark.parametrize("count", [1, 2, 3])
async def test_the_newest_is_served(nursery, count):
    newest = SHOWS[count - 1].shown
    for order in permutations(SHOWS[:count]):
        with MemoryTransport(1 << 20) as transport:
            front = Front(Config(), transport, nursery, None, None, None)
            for show in order:
                await front.show(show)
            served = front.find("w")
            assert (served and served.record) == (newest and newest.record)
