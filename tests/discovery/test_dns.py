"""Nodes found through a DNS server on the loopback."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest

from sessionha.discovery import dns
from sessionha.discovery.dns import DNS
from sessionha.discovery.source import DNSSource
from sessionha.errors import DiscoveryFailed
from tests.discovery.servers import NameServer, name_server


@pytest.fixture
async def server() -> AsyncIterator[NameServer]:
    async with name_server() as running:
        yield running


def asking(server: NameServer, name: str, port: int = 0) -> DNS:
    return DNS(DNSSource(name, port, ("127.0.0.1", server.port)))


async def test_every_address_of_a_name_is_a_node_and_answers_may_change(server: NameServer) -> None:
    found = asking(server, "shop.test", 7946)
    server.records["shop.test", "A"] = ["10.0.0.1", "10.0.0.2"]
    assert await found.find() == {"10.0.0.1:7946", "10.0.0.2:7946"}
    server.records["shop.test", "A"] = ["10.0.0.3"]
    server.records["shop.test", "AAAA"] = ["fd00::4"]
    assert await found.find() == {"10.0.0.3:7946", "[fd00::4]:7946"}


async def test_srv_records_give_hosts_and_ports(server: NameServer) -> None:
    """A host that has no address any more is left out, the others are found."""
    server.records["_peer._tcp.shop.test", "SRV"] = [
        "0 50 7001 shop-0.shop.test.",
        "0 50 7002 shop-1.shop.test.",
        "0 50 7003 gone.shop.test.",
    ]
    server.records["shop-0.shop.test", "A"] = ["10.0.0.1"]
    server.records["shop-1.shop.test", "AAAA"] = ["fd00::2"]
    assert await asking(server, "_peer._tcp.shop.test").find() == {
        "10.0.0.1:7001",
        "[fd00::2]:7002",
    }


@pytest.mark.parametrize(
    ("name", "port", "why"),
    [
        ("nowhere.test", 7946, "no such name"),
        ("shop.test", 0, "no records of this kind"),
        ("broken.test", 7946, "no records of this kind"),
    ],
)
async def test_a_name_without_nodes_is_a_failure_that_says_why(
    server: NameServer, name: str, port: int, why: str
) -> None:
    server.records["shop.test", "A"] = ["10.0.0.1"]
    server.records["broken.test", "TXT"] = ["nothing"]
    with pytest.raises(DiscoveryFailed, match=why):
        await asking(server, name, port).find()


async def test_a_server_that_is_silent_is_a_failure_that_says_so(
    server: NameServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dns, "LIFETIME", 0.05)
    server.silent = True
    with pytest.raises(DiscoveryFailed, match="no DNS server answers within"):
        await asking(server, "shop.test", 7946).find()
