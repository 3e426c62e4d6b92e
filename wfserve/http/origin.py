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
    origin whose pages may come, too; `*` names none. Of a header that is repeated, each has to pass.
    """
    hosts = _values(headers, b"host") - {""}
    for host in hosts:
        if not is_loopback(_hostname(f"//{host}")):
            raise ForbiddenError(f"Host {host} is not this server's.")
    for origin in _values(headers, b"origin"):
        if origin != allowed and {origin.partition("//")[2]} != hosts:
            raise ForbiddenError(f"A page of {origin} may not manage this server.")


def _values(headers: Headers, wanted: bytes) -> set[str]:
    return {value.decode("latin-1") for name, value in headers if name == wanted}


def _hostname(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").removesuffix(".")  # the root of DNS
    except ValueError:  # brackets around what is no IPv6 address
        return ""
