"""What is loaded at start is loaded side by side: one that fails keeps no other from being served."""

from __future__ import annotations

import logging
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import trio

from wfserve.errors import WfserveError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterator

    from wfserve.state.records import Version

log = logging.getLogger(__name__)
_URL = re.compile(r"(https?|file):", re.IGNORECASE)


class Named(NamedTuple):
    """An archive that the configuration names."""

    url: str
    name: str | None = None  # to register it as, by default the archive's

    @classmethod
    def read(cls, text: str) -> Named:
        """Return what `text` names; `name=archive` gives an archive another name."""
        name, given, archive = text.partition("=")
        named = given and not set(name) & set("/:?")  # else the = belongs to a URL
        return cls(archive, name) if named else cls(text)

    def __str__(self) -> str:
        return self.url if self.name is None else f"{self.name}={self.url}"

    @property
    def in_store(self) -> bool:
        """Whether the archive is there to be looked at, and may have changed."""
        return _URL.match(self.url) is None

    def means(self, name: str, version: Version) -> bool:
        """Whether a version may have been registered from it."""
        return version.url == self.url and self.name in (None, name)


class Loads:
    """The loads under way, in tasks of `nursery`."""

    def __init__(self, nursery: trio.Nursery) -> None:
        self._nursery = nursery
        self._over = trio.Event()
        self.under_way = 0

    def start_soon(self, load: Callable[..., Awaitable[None]], *arguments: object) -> None:
        """Load something in the background."""
        if not self.under_way:
            self._over = trio.Event()
        self.under_way += 1

        async def loading() -> None:
            try:
                await load(*arguments)
            finally:
                self.under_way -= 1
                if not self.under_way:
                    self._over.set()

        self._nursery.start_soon(loading)

    async def wait(self) -> None:
        """Return when none is under way."""
        while self.under_way:
            await self._over.wait()


@contextmanager
def failure_logged(what: str) -> Iterator[None]:
    """Log why `what` cannot be loaded."""
    try:
        yield
    except WfserveError as error:
        log.error("cannot load workflow %s: %s", what, error.message)
    except Exception:
        log.exception("cannot load workflow %s", what)
