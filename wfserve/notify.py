"""A supervisor is told how the server is, in systemd's words: one datagram a message, never waited for.

sd_notify(3) says what they mean. Where nobody asks to be told, by `NOTIFY_SOCKET`, nothing is sent.
"""

from __future__ import annotations

import logging
import os
import socket
from typing import TYPE_CHECKING

import trio

if TYPE_CHECKING:
    from collections.abc import Callable, MutableMapping

log = logging.getLogger(__name__)
INTERVAL = 5.0  # seconds between looks at what is told


class Supervisor:
    """Tells the supervisor at `address`, a path or `@` and an abstract name; empty: there is none.

    `watchdog` is after how many seconds without a word the process counts as stuck, None: never.
    """

    def __init__(self, address: str = "", watchdog: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address.startswith("@") else address
        self._interval = INTERVAL if watchdog is None else min(INTERVAL, watchdog / 3)

    @classmethod
    def of(cls, environ: MutableMapping[str, str]) -> Supervisor:
        """Return the supervisor that `environ` names, and take it out of there: it is not the workers'."""
        address = environ.pop("NOTIFY_SOCKET", "")
        microseconds, pid = environ.pop("WATCHDOG_USEC", ""), environ.pop("WATCHDOG_PID", "")
        ours = microseconds.isdecimal() and int(microseconds) and pid in ("", str(os.getpid()))
        return cls(address, int(microseconds) / 1e6 if ours else None)

    def tell(self, *words: str) -> None:
        """Send `words`, such as `READY=1`; where that fails the log has it, and the server goes on."""
        if not self._address:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto("\n".join(words).encode(), self._address)
        except OSError as error:
            log.warning("cannot tell the supervisor %s: %s", ", ".join(words), error.strerror or error)

    async def keep_told(self, status: Callable[[], str]) -> None:
        """Tell what `status` returns whenever it is another, and again and again that the process runs."""
        if not self._address:
            return
        told = ""
        while True:
            now = status()
            self.tell("WATCHDOG=1", *([f"STATUS={now}"] if now != told else []))
            told = now
            await trio.sleep(self._interval)
