"""A stage over a fake pool on the virtual clock, and what goes through it."""

import math

import trio

from tests.support import item, release, text
from wfserve.errors import ServiceUnavailableError
from wfserve.scheduling.dispatch import Stage
from wfserve.scheduling.settings import StageSettings
from wfserve.workers.base import NO_TERMS, Done, Failed
from wfserve.workers.fake import FakePool, echo

NAME = "w__n"


class Bench:
    """A stage over a fake pool on the virtual clock, and items to send through it."""

    def __init__(self, transport, nursery, work, replicas=1, pressure=lambda now: False, **settings):
        self.transport = transport
        self.nursery = nursery
        self.stage = Stage(
            StageSettings(NAME, **{"timeout": 1.0, "batch_size": 8} | settings),
            lambda listener: FakePool(listener, work, replicas),
            pressure=pressure,
        )
        self.pool = self.stage.pool
        self.outcomes = {}
        self.opened = trio.current_time()

    def attempt(self, name, attempts=1, terms=NO_TERMS, shape=None):
        given = item(self.transport, name.encode(), shape)
        given.terms = terms
        self.nursery.start_soon(self._attempt, name, given, attempts)

    async def _attempt(self, name, given, attempts):
        try:
            outcome = await self.stage.attempt(given)
            for _ in range(attempts - 1):
                if isinstance(outcome, Failed):
                    outcome = await self.stage.attempt(given)
            self.outcomes[name] = (trio.current_time() - self.opened, outcome)
            if isinstance(outcome, Done):
                assert text(outcome.payload) == name
                outcome.payload.release()
        except ServiceUnavailableError as error:
            self.outcomes[name] = (trio.current_time() - self.opened, error)
        finally:
            release(given)


def sizes(bench):
    return [len(batch.items) for batch in bench.pool.batches]


def kinds(bench):
    return {name: type(outcome) for name, (_, outcome) in bench.outcomes.items()}


async def quick(items):
    await trio.lowlevel.checkpoint()
    return echo(items)


async def slow(items):
    await trio.sleep(0.5)
    return echo(items)


async def hang(items):
    await trio.sleep(math.inf)
