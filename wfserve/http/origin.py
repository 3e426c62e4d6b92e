"""A web page of another origin cannot use a browser on this machine to manage a server on loopback.

Registering an archive runs its code, and a port on loopback is open to every page that the machine's browser
shows. Such a request carries the page's `Origin`, or, once its name has been rebound, a foreign `Host`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from wfserve.config import is_loopback
from wfserve.errors import ForbiddenError

if TYPE_CHECKING:
    from wfserve.http.respond import Headers


def refuse_foreign(headers: Headers, allowed: str | None = None) -> None:
    """Raise `ForbiddenError` if a request that came to loopback is a foreign page's.

    Clients that are no browsers send no `Origin`, and call loopback by one of its names. `allowed` is one
    origin whose pages may come, too; `*` names none.
    """
    found = {name: value.decode("latin-1") for name, value in headers if name in (b"host", b"origin")}
    host = found.get(b"host", "")
    if host and not is_loopback(_hostname(f"//{host}")):
        raise ForbiddenError(f"Host {host} is not this server's.")
    origin = found.get(b"origin")
    if origin is not None and origin.partition("//")[2] != host and origin != allowed:
        raise ForbiddenError(f"A page of {origin} may not manage this server.")


def _hostname(url: str) -> str:
    try:
        return urlsplit(url).hostname or ""
    except ValueError:  # brackets around what is no IPv6 address
        return ""
