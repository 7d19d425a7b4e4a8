"""Rounds of asking: who is proven at which address, and what a failure leaves as it was."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Mapping

import pytest

from sessionha.discovery import seeker
from sessionha.discovery.base import Found, Proof
from sessionha.discovery.seeker import Own, Seeker
from sessionha.errors import DiscoveryFailed


class Directory:
    """A discovery that says what the test wants."""

    def __init__(self, *addresses: str) -> None:
        self.addresses = set(addresses)
        self.failure = ""
        self.announced: list[tuple[str, str]] = []
        self.withdrawn: list[str] = []
        self.closed = False

    async def find(self) -> frozenset[str]:
        if self.failure:
            raise DiscoveryFailed(self.failure)
        return frozenset(self.addresses)

    async def announce(self, node: str, address: str) -> None:
        self.announced.append((node, address))

    async def withdraw(self, node: str) -> None:
        self.withdrawn.append(node)
        if self.failure:
            raise DiscoveryFailed(self.failure)

    async def close(self) -> None:
        self.closed = True


class Node:
    """Somebody who wants to know, and who proves itself at which address."""

    seeks = True
    settled = False

    def __init__(self, *, router: bool = False) -> None:
        self.me = None if router else Own("n1", "inc-1", "10.0.0.1:7946")
        self.known: dict[str, Proof] = {}
        self.living: dict[str, Proof] = {}
        self.asked: list[str] = []
        self.told: list[Mapping[str, Found]] = []
        self.heard = asyncio.Event()

    def own(self) -> Own | None:
        return self.me

    def members(self) -> Mapping[str, Proof]:
        return self.known

    def found(self, directory: Mapping[str, Found]) -> None:
        self.told.append(directory)
        self.heard.set()

    async def identify(self, address: str) -> Proof | None:
        self.asked.append(address)
        return self.living.get(address)


def seeking(directory: Directory, node: Node) -> Seeker:
    chance = random.Random(1)
    return Seeker(directory, "dns://shop:7946", node.identify, node, haste=0.0, chance=chance)


async def test_an_address_is_a_node_when_it_proved_itself_and_not_before() -> None:
    directory, node = Directory("10.0.0.1:7946", "10.0.0.2:7946", "10.0.0.3:7946"), Node()
    node.living = {"10.0.0.2:7946": Proof("n2", "inc-2")}
    await seeking(directory, node).round()
    assert node.told == [{"n2": Found("10.0.0.2:7946", "inc-2")}]
    assert node.asked == ["10.0.0.2:7946", "10.0.0.3:7946"]  # not its own
    assert directory.announced == [("n1", "10.0.0.1:7946")]


async def test_members_are_not_asked_again_who_they_are() -> None:
    directory, node = Directory("10.0.0.2:7946"), Node()
    node.known = {"10.0.0.2:7946": Proof("n2", "inc-2"), "10.0.0.9:7946": Proof("n9", "inc-9")}
    await seeking(directory, node).round()
    assert node.told == [{"n2": Found("10.0.0.2:7946", "inc-2")}]
    assert node.asked == []


async def test_one_that_does_not_answer_now_stays_while_it_is_listed() -> None:
    directory, node = Directory("10.0.0.2:7946"), Node()
    node.living = {"10.0.0.2:7946": Proof("n2", "inc-2")}
    asking = seeking(directory, node)
    await asking.round()
    node.living = {}
    await asking.round()
    directory.addresses = {"10.0.0.3:7946"}
    await asking.round()
    assert node.told == [{"n2": Found("10.0.0.2:7946", "inc-2")}] * 2 + [{}]


async def test_a_node_at_a_new_address_is_found_there_while_the_old_one_is_still_listed() -> None:
    directory, node = Directory("10.0.0.2:7946"), Node()
    node.living = {"10.0.0.2:7946": Proof("n2", "inc-2")}
    asking = seeking(directory, node)
    await asking.round()
    directory.addresses.add("10.0.0.7:7946")
    node.living = {"10.0.0.7:7946": Proof("n2", "inc-2")}
    await asking.round()
    assert node.told[-1] == {"n2": Found("10.0.0.7:7946", "inc-2")}


async def test_a_failure_leaves_what_is_known_and_is_logged_once_for_each_cause(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory, node = Directory("10.0.0.2:7946"), Node()
    asking = seeking(directory, node)
    with caplog.at_level(logging.INFO, "sessionha.discovery"):
        for failure in ("no answer", "no answer", "no such name", "no such name", "", ""):
            directory.failure = failure
            await asking.round()
    said = [(record.levelname, record.getMessage()) for record in caplog.records]
    assert said == [
        ("WARNING", f"nodes cannot be looked up through dns://shop:7946: {why}; those that are"
         " known stay")
        for why in ("no answer", "no such name")
    ] + [("INFO", "nodes can be looked up through dns://shop:7946 again")]  # fmt: skip
    assert node.told == [{}, {}]


async def test_another_node_of_the_same_name_is_told_apart_from_this_ones_other_address(
    caplog: pytest.LogCaptureFixture,
) -> None:
    directory, node = Directory("10.0.0.8:7946", "10.0.0.9:7946"), Node()
    node.living = {"10.0.0.8:7946": Proof("n1", "inc-1")}
    asking = seeking(directory, node)
    await asking.round()
    assert caplog.records == []
    node.living["10.0.0.9:7946"] = Proof("n1", "another")
    await asking.round()
    await asking.round()
    assert [record.getMessage() for record in caplog.records] == [
        "another node at 10.0.0.9:7946 calls itself n1 too, and the two ignore each other: give"
        " each its own ID (SESSIONHA_NODE)"
    ]
    assert node.told == [{}, {}, {}]


async def test_a_router_announces_nothing() -> None:
    directory, node = Directory("10.0.0.2:7946"), Node(router=True)
    node.living = {"10.0.0.2:7946": Proof("n2", "inc-2")}
    asking = seeking(directory, node)
    await asking.round()
    await asking.stop(withdraw=True)
    assert node.told == [{"n2": Found("10.0.0.2:7946", "inc-2")}]
    assert directory.announced == []
    assert directory.withdrawn == []
    assert directory.closed


async def test_rounds_go_on_after_a_defect_and_end_with_a_withdrawal(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(seeker, "PERIOD", 0.0)
    directory, node = Directory(), Node()
    defects = [ZeroDivisionError()]
    found = node.found

    def once(told: Mapping[str, Found]) -> None:
        if defects:
            raise defects.pop()
        found(told)

    monkeypatch.setattr(node, "found", once)
    asking = seeking(directory, node)
    asking.start()
    async with asyncio.timeout(10):
        await node.heard.wait()
    directory.failure = "no answer"
    await asking.stop(withdraw=True)
    assert [record.levelname for record in caplog.records][:1] == ["ERROR"]
    assert directory.withdrawn == ["n1"]
    assert directory.closed


async def test_an_engine_that_does_not_lead_asks_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    directory, node = Directory("10.0.0.2:7946"), Node()
    node.seeks = False
    asking = seeking(directory, node)
    asking.start()
    for _ in range(5):
        await asyncio.sleep(0)
    assert directory.announced == []
    node.seeks = True
    async with asyncio.timeout(10):
        await node.heard.wait()
    await asking.stop()
    assert directory.withdrawn == []
