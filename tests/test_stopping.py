"""Planned stops of engines on the loopback address: who is asked, what is told, what is undone."""

from __future__ import annotations

import asyncio
import logging

import pytest

from sessionha.errors import InvalidSettings, PeerUnavailable
from sessionha.peer.messages import DrainProgress
from sessionha.state.draining import Draining
from tests.test_engine import GROUP, Make, create, pair, put, until

__all__ = ["pair"]


async def test_a_server_that_ends_is_told_after_others_serve_its_sessions(
    pair: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """G11: routers are told first, and requests that come in the meantime are served."""
    one, two = await pair(drain_delay=0.3)
    await one.state.commit(create(), fresh=True)
    retiring = asyncio.create_task(one.retire())
    await until(lambda: one.node_state == two.membership.node_state("n1") == "draining")
    assert one.node_state.readiness.status == 404
    await one.state.commit(put(b"2"), fresh=False)
    assert one.state.held(GROUP, None) is not None
    with caplog.at_level(logging.INFO, "sessionha.engine"):
        await retiring
    assert "node n1 drained: others serve its 1 groups; it returns" in caplog.text
    assert two.state.held(GROUP, None) is not None
    assert two.state.node.counters.promotions == 0
    await one.state.commit(put(b"3"), fresh=False)  # a request that the server had accepted
    await one.stop()
    departed = dict(two.membership.view().departed)
    assert departed == {"n1": "returning"}
    assert two.state.held(GROUP, None) is not None


async def test_what_no_signal_announced_is_handed_over_when_the_server_has_stopped(
    pair: Make,
) -> None:
    """The last resort, without waiting for routers: the port is closed by now."""
    one, two = await pair(drain_delay=10, drain_timeout=20)
    await one.state.commit(create(), fresh=True)
    async with asyncio.timeout(8):
        await one.stop()
    assert two.state.held(GROUP, None) is not None
    assert two.state.node.counters.promotions == 0


async def test_a_server_that_stops_the_engine_sooner_ends_what_the_signal_began(
    pair: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A worker that is recycled and told to end at once, whose siblings go on."""

    async def left_to_sibling(_parts: object) -> bool:
        return True

    monkeypatch.setattr("sessionha.engine._left_to_sibling", left_to_sibling)
    one, _two = await pair()
    retiring = asyncio.create_task(one.retire())
    await until(lambda: one._parts.told)  # type: ignore[union-attr]
    await one.stop()
    await retiring


async def test_what_a_stop_finds_begun_is_told_once_with_all_its_groups(
    pair: Make, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """A worker that is told to end and recycled at once drains its node, whichever is first."""
    one, two = await pair(drain_delay=0)
    await one.state.commit(create(), fresh=True)
    hand_over, handed_over = Draining.hand_over, asyncio.Event()

    async def and_stay(draining: Draining, until: int) -> bool:
        done = await hand_over(draining, until)
        if not handed_over.is_set():
            handed_over.set()
            await asyncio.Event().wait()
        return done

    monkeypatch.setattr(Draining, "hand_over", and_stay)
    retiring = asyncio.create_task(one.retire())
    await handed_over.wait()
    with caplog.at_level(logging.INFO, "sessionha.engine"):
        await one.stop()
    await retiring
    assert caplog.text.count("node n1 drained: others serve its 1 groups; it returns") == 1
    assert two.state.held(GROUP, None) is not None


async def test_an_operator_lets_a_node_drain_for_good_and_changes_their_mind(pair: Make) -> None:
    """Any member passes it on; who is to go for good says so when it goes."""
    one, two = await pair(drain_delay=0)
    await one.state.commit(create(), fresh=True)
    assert await two.drain("n1", None) == DrainProgress("n1")
    assert (await two.drain("n1", "leaving")).how == "leaving"
    done = DrainProgress("n1", "leaving", "done", moved=1, waiting=1, copies=1)  # a pair no more
    await until(lambda: _progress(one).phase == "done")
    assert await two.drain("n1", None) == done
    assert await one.drain("n1", "") == DrainProgress("n1")
    await until(lambda: two.membership.node_state("n1") == "ready")
    await two.drain("n1", "leaving")
    await until(lambda: _progress(one).phase == "done")
    await one.stop()
    assert dict(two.membership.view().departed) == {"n1": "left"}
    with pytest.raises(InvalidSettings, match="n1 is no member"):
        await two.drain("n1", "returning")


def _progress(engine: object) -> DrainProgress:
    drain = engine._parts.drain  # type: ignore[attr-defined]
    found: DrainProgress = drain.progress()
    return found


async def test_what_cannot_be_handed_over_is_told_with_its_sessions(
    pair: Make, caplog: pytest.LogCaptureFixture
) -> None:
    """Nobody is waited for where nobody is left that could take it."""
    one, two = await pair(drain_delay=10)
    await one.state.commit(create(), fresh=True)
    two.membership.drain("returning")  # type: ignore[union-attr]
    await until(lambda: not one.membership.view().member("n2").ready)  # type: ignore[union-attr]
    async with asyncio.timeout(8):
        await one.retire()
    told = "1 with 1 sessions could not be handed over, of which 0 have no copy"
    assert told in caplog.text
    progress = await one.drain("n1", None)
    assert (progress.phase, progress.groups, progress.sessions) == ("done", 1, 1)
    with pytest.raises(InvalidSettings, match="n9"):
        await one.drain("n9", "returning")
    await one.stop()  # which looks again, and finds the same
    assert caplog.text.count(told) == 1


async def test_a_node_that_does_not_answer_is_named(pair: Make) -> None:
    one, two = await pair()
    assert two.streams is not None
    await two.streams.close()
    with pytest.raises(PeerUnavailable, match="n2"):
        await one.drain("n2", "returning")
