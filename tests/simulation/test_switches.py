"""Rules switched off one by one: a simulator that stops catching one of them has become useless."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest

from sessionha.identity import NO_VIEW
from sessionha.state import copies
from sessionha.state.node import Node
from sessionha.state.ownership import Ownership
from sessionha.state.replication import Replication
from tests.simulation.clients import Violation
from tests.simulation.histories import EVERYTHING, Plan, history
from tests.simulation.loop import run
from tests.simulation.scenes import GROUP, Scene, simulated

SEEDS = 60
"""Histories in which a missing rule must show; each of these shows in far fewer."""

CRASHES = Plan(engines=2, width=2)
TROUBLES = Plan(engines=2, width=2, troubles=EVERYTHING, lossy=0.1)


def caught(plan: Plan) -> str:
    """The first violation that the histories of a plan meet."""
    for seed in range(SEEDS):
        try:
            run(history(seed, plan))
        except Violation as violation:
            return str(violation)
    raise AssertionError(f"not one of {SEEDS} histories shows it")


def test_acknowledging_before_replication_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """R1."""

    async def send(*_: Any) -> list[str]:
        return []

    monkeypatch.setattr(Replication, "_send", send)
    assert "does not have" in caught(CRASHES)


def test_a_primary_that_drops_a_silent_backup_itself_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R1: what it then confirms alone is lost with it."""
    original = Replication._send

    async def send(self: Replication, plan: Any) -> list[str]:
        await original(self, plan)
        return []

    monkeypatch.setattr(Replication, "_send", send)
    assert caught(TROUBLES)


def test_an_engine_that_serves_what_is_not_acknowledged_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """I19: dirty reads."""
    original = Ownership.serves

    def serves(self: Ownership, record: Any, view: Any) -> Any:
        record.acked = record.version
        return original(self, record, view)

    monkeypatch.setattr(Ownership, "serves", serves)
    assert caught(TROUBLES)


def test_promotion_on_local_knowledge_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """R4: who asks nobody forks the history."""

    async def ask(*_: Any) -> list[Any]:
        return []

    monkeypatch.setattr(Ownership, "_ask_all", ask)
    assert caught(CRASHES)


def test_gone_without_proof_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """R12."""
    monkeypatch.setattr(Ownership, "_check_nowhere", lambda self: None)
    assert "gone" in caught(TROUBLES)


def test_a_copy_from_quarantine_that_is_served_is_caught(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R6: a node that was away goes on as primary of what it had."""

    def is_primary(self: Node, record: Any, view: Any) -> bool:
        return bool(record.epoch.node == self.me and self.joined(view) != NO_VIEW)

    monkeypatch.setattr(Node, "is_primary", is_primary)
    assert caught(TROUBLES)


@simulated()
async def stray(scene: Scene) -> None:
    """A change that was never confirmed leaves with the copy that has it."""
    await scene.create("n1", a="1")
    scene.world.pause("n1")
    scene.world.expel("n1")
    await scene.gone_from_view("n1")
    await scene.put("n2", a="2")
    scene.world.faults.learning = (0.05, 0.05)
    scene.world.resume("n1")
    lost = scene.start(scene.write("n1", b="lost"))
    await scene.members("n1")
    await scene.put("n2", c="3")
    await asyncio.wait({lost})
    lost.exception()
    await scene.see("n1")
    assert scene.world.hosts["n1"].content(GROUP) == scene.world.hosts["n2"].content(GROUP)


def test_a_difference_by_version_alone_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """R8: rare in random worlds, so this one concentrates on it."""
    stray()
    monkeypatch.setattr(
        copies, "_on_line", lambda record, position: 0 < position.version <= record.version
    )
    monkeypatch.setattr(
        copies,
        "fits",
        lambda record, push: (
            push.full
            or (record is not None and record.held and record.version >= push.base.version)
        ),
    )
    with pytest.raises(AssertionError):
        stray()


@pytest.mark.parametrize("forgets", ["sessions", "elements"])
def test_tombstones_that_do_not_travel_are_caught(
    monkeypatch: pytest.MonkeyPatch, forgets: str
) -> None:
    """R8, R11."""
    original: Callable[..., Any] = copies.content

    def content(*arguments: Any) -> Any:
        push = original(*arguments)
        if forgets == "elements":
            living = tuple(row for row in push.elements if row.value is not None)
            return _with(push, elements=living)
        return _with(push, sessions=tuple(row for row in push.sessions if not row.destroyed))

    monkeypatch.setattr(copies, "content", content)
    assert caught(replace(TROUBLES, requests=80))


def _with(push: Any, **changes: Any) -> Any:
    return msgspec.structs.replace(push, **changes)
