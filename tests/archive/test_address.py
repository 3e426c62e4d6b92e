"""Only public addresses pass, however they are written."""

import socket

import pytest

from wfserve.archive.address import RefusedAddressError, is_public, public_addresses, resolve


@pytest.mark.parametrize(
    "address",
    [
        "127.0.0.1", "127.8.8.8", "10.0.0.1", "172.16.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1",
        "100.100.100.200", "0.0.0.0", "224.0.0.1", "240.0.0.1", "255.255.255.255", "192.0.0.192",
        "168.63.129.16", "::1", "::", "fe80::1", "fe80::1%eth0", "fc00::1", "fd00:ec2::254", "ff02::1",
        "fec0::1", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "2002:7f00:1::", "64:ff9b::7f00:1", "2001:db8::1",
    ],
)  # fmt: skip
def test_refused(address: str) -> None:
    assert not is_public(address)


@pytest.mark.parametrize("address", ["1.1.1.1", "93.184.216.34", "2606:4700:4700::1111", "::ffff:1.1.1.1"])
def test_public(address: str) -> None:
    assert is_public(address)


async def test_one_bad_address_condemns_the_host() -> None:
    async def mixed(host: str, port: int) -> list[str]:
        return ["1.1.1.1", "10.0.0.1"]

    with pytest.raises(RefusedAddressError, match=r"evil\.test is 10\.0\.0\.1"):
        await public_addresses("evil.test", 80, mixed)


async def test_a_host_that_does_not_resolve() -> None:
    async def nowhere(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def nothing(host: str, port: int) -> list[str]:
        return []

    for resolver in (nowhere, nothing):
        with pytest.raises(RefusedAddressError):
            await public_addresses("none.test", 80, resolver)
    with pytest.raises(RefusedAddressError, match="not a host name"):
        await public_addresses("x" * 70, 80, resolve)


async def test_addresses_in_odd_notation_are_what_the_system_makes_of_them() -> None:
    for notation in ("127.1", "2130706433", "0x7f.1"):
        assert not any(map(is_public, await resolve(notation, 80)))
