"""`nodes` as the address of a discovery: what is read, shown and refused."""

from __future__ import annotations

import sys

import pytest

from sessionha.discovery.source import (
    DNSSource,
    RedisSource,
    is_address,
    is_source,
    open_source,
    read_source,
)
from sessionha.errors import InvalidSettings


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("dns://shop:7946", DNSSource("shop", 7946)),
        ("dns://shop.prod.svc.cluster.local:1", DNSSource("shop.prod.svc.cluster.local", 1)),
        ("dns://_peer._tcp.shop", DNSSource("_peer._tcp.shop")),
        ("dns://shop:1?server=10.0.0.10", DNSSource("shop", 1, ("10.0.0.10", 53))),
        ("dns://_p._tcp.s?server=[::1]:8600", DNSSource("_p._tcp.s", 0, ("::1", 8600))),
        ("redis://10.0.0.9:6379/0", RedisSource("redis://10.0.0.9:6379/0")),
        ("rediss://:pw@cache/1?x=y", RedisSource("rediss://:pw@cache/1?x=y")),
    ],
)
def test_what_a_value_of_nodes_means(text: str, source: object) -> None:
    assert is_source(text)
    assert read_source(text) == source


@pytest.mark.parametrize(
    "text",
    [
        "dns://",
        "dns://shop:port",
        "dns://shop:0",
        "dns://shop:99999",
        "dns://shop:1/path",
        "dns://a,b:1",
        "dns://shop:1?server=ns.example",
        "dns://shop:1?srever=10.0.0.1",
        "redis://",
        "redis://one,redis://two",
    ],
)
def test_what_is_no_address_of_a_discovery_is_refused(text: str) -> None:
    assert is_source(text)
    with pytest.raises(ValueError, match=r"^must "):
        read_source(text)


def test_a_list_of_nodes_is_no_discovery() -> None:
    assert not is_source("n1=http://10.0.0.1:7946")
    assert not is_source("")


def test_a_password_is_never_shown() -> None:
    source = read_source("redis://user:hunter2@10.0.0.9/0?password=hunter2")
    assert str(source) == "redis://10.0.0.9/0"
    assert "hunter2" not in repr(source)


@pytest.mark.parametrize("text", ["", "shop", "shop:", "shop:0", "shop:65536", "a b:1", "x@y:1"])
def test_text_from_outside_that_is_no_address_is_passed_over(text: str) -> None:
    assert not is_address(text)
    assert is_address("10.0.0.1:7946")
    assert is_address("[fd00::1]:7946")


@pytest.mark.parametrize(
    ("text", "module", "extra"),
    [("dns://shop:1", "dns", "dns"), ("redis://10.0.0.9", "redis", "redis")],
)
def test_a_library_that_is_missing_is_named_by_its_extra(
    monkeypatch: pytest.MonkeyPatch, text: str, module: str, extra: str
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == module]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.delitem(sys.modules, f"sessionha.discovery.{module}", raising=False)
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(InvalidSettings, match=rf"pip install 'sessionha\[{extra}\]'"):
        open_source(read_source(text), "shop")
