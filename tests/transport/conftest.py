"""Children of the transport's tests are functions of `transport_children`, which both sides can import."""

from __future__ import annotations

import multiprocessing
import sys
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.process import BaseProcess


@pytest.fixture
def children(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return the module of child functions; its directory is on `sys.path`, here and in what is started."""
    monkeypatch.syspath_prepend(Path(__file__).parent)
    import transport_children

    yield transport_children
    del sys.modules["transport_children"]


@pytest.fixture
def start(children: Any) -> Any:
    """Return a context manager that runs a function of `transport_children` in a forkserver child."""

    @contextmanager
    def run(target: Callable[..., None], *args: object) -> Iterator[BaseProcess]:
        process = multiprocessing.get_context("forkserver").Process(target=target, args=args)
        process.start()
        try:
            yield process
        finally:
            process.kill()
            process.join()
            process.close()

    return run
