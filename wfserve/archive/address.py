"""An address that passes the check here is public and unicast, and is the very one to connect to."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable

import trio

Resolver = Callable[[str, int], Awaitable[list[str]]]

_REFUSED = tuple(
    ipaddress.ip_network(network)
    for network in (
        "168.63.129.16/32",  # Azure's metadata service, on a public address
        "192.0.0.0/24",  # IETF assignments, among them Oracle's metadata service
        "2002::/16",  # 6to4: an IPv4 address, perhaps a private one, inside
        "64:ff9b::/96",  # NAT64: likewise
        "fec0::/10",  # the old site-local addresses
    )
)


class RefusedAddressError(Exception):
    """A host that does not resolve, or resolves to an address that a client may not make us call."""


def is_public(address: str) -> bool:
    """Whether `address` is one that anyone on the internet could call."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
        ip = ip.ipv4_mapped
    special = ip.is_multicast or ip.is_reserved or ip.is_unspecified or not ip.is_global
    return not special and not any(ip in network for network in _REFUSED)


async def resolve(host: str, port: int) -> list[str]:
    """Return the addresses of `host`, best first (RFC 6724, as the system sorts them)."""
    found = await trio.socket.getaddrinfo(host, port, type=trio.socket.SOCK_STREAM)
    return list(dict.fromkeys(str(address[0]) for *_, address in found))


async def public_addresses(host: str, port: int, resolver: Resolver) -> list[str]:
    """Return the addresses of `host`. Raises `RefusedAddressError` if one of them is not public.

    One bad address condemns the host: an attacker's name server may mix them.
    """
    try:
        addresses = await resolver(host, port)
    except OSError as error:
        raise RefusedAddressError(f"{host} does not resolve: {error.strerror}") from error
    except UnicodeError as error:
        raise RefusedAddressError(f"{host[:80]!a} is not a host name") from error
    for address in addresses:
        if not is_public(address):
            raise RefusedAddressError(f"{host} is {address}, which is not a public address")
    if not addresses:
        raise RefusedAddressError(f"{host} has no address")
    return addresses
