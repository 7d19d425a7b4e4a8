"""Visits of one session at the same time: how many there may be, and when a turn ends."""

from __future__ import annotations

import asyncio

import pytest

from sessionha.errors import SessionBusy, SessionUnavailable
from sessionha.session.cookies import CookieAttributes, SessionCookies
from sessionha.session.terms import Terms
from sessionha.session.visit import Visit
from sessionha.state.base import Turn
from tests.session.fakes import FakeEngine

COOKIES = SessionCookies([b"k" * 32])


class Door:
    """A client with a session, and the way in."""

    def __init__(self, limit: int = 2) -> None:
        self.engine = FakeEngine()
        attributes = CookieAttributes("session")
        self.terms = Terms(COOKIES, attributes, attributes, session_requests=limit)
        self.cookie = ""

    async def sign_in(self) -> Door:
        visit = await self.come()
        visit.session["a"] = 1
        await visit.respond()
        (header,) = (value for name, value in visit.headers() if name == "set-cookie")
        self.cookie = header.partition(";")[0]
        visit.leave()
        return self

    async def come(self) -> Visit:
        visit = Visit(self.engine, self.terms, [self.cookie] if self.cookie else [])
        if not visit.arrive():
            await visit.acquire()
        return visit

    @property
    def open_turns(self) -> int:
        return sum(not turn.ended for turn in self.engine.state.turns or ())


# --- how many ------------------------------------------------------------------------------------


async def test_more_requests_of_a_session_than_the_limit_are_refused_by_its_name() -> None:
    """Contract, section 8: an error that names the setting; the application runs without."""
    door = await Door().sign_in()
    first, second = await door.come(), await door.come()
    third = await door.come()
    with pytest.raises(SessionBusy, match=r"2 requests .* `session_requests`"):
        third.session["a"]
    assert door.engine.counts == ["session_busy"]
    assert first.session["a"] == second.session["a"] == 1
    third.leave()
    assert (await door.come()).session.failure is not None, "who was refused made no room"
    first.leave()
    assert (await door.come()).session["a"] == 1


async def test_requests_without_a_session_and_of_others_are_not_counted() -> None:
    door, other = await Door(1).sign_in(), Door(1)
    await door.come()
    other.engine, other.terms = door.engine, door.terms
    assert [(await other.come()).session.failure for _ in range(5)] == [None] * 5
    await other.sign_in()
    assert (await other.come()).session["a"] == 1


async def test_nothing_is_remembered_of_requests_that_ended() -> None:
    door = await Door().sign_in()
    visits = [await door.come() for _ in range(5)]
    for visit in visits:
        visit.leave()
        visit.leave()
    assert door.terms.under_way == {}


async def test_a_request_that_could_not_have_its_session_makes_room() -> None:
    door = await Door().sign_in()
    door.engine.state.local = False
    door.engine.state.failure = SessionUnavailable("nobody answered")
    visit = await door.come()
    assert visit.session.failure is not None
    visit.leave()
    assert door.terms.under_way == {}


# --- turns ---------------------------------------------------------------------------------------


async def in_turn() -> Door:
    door = await Door(10).sign_in()
    door.engine.state.local, door.engine.state.turns = False, []
    return door


async def test_a_turn_ends_when_the_response_is_committed() -> None:
    """So the body may take as long as it likes; what is changed later is merged."""
    door = await in_turn()
    visit = await door.come()
    visit.session["a"] = 2
    await visit.session.commit()
    assert door.open_turns == 1
    await visit.respond()
    assert door.open_turns == 0
    visit.session["a"] = 3
    await visit.end()
    assert len(door.engine.state.batches) == 3


async def test_a_request_that_only_reads_ends_its_turn_as_well() -> None:
    door = await in_turn()
    visit = await door.come()
    assert visit.session["a"] == 1
    await visit.respond()
    assert door.open_turns == 0


@pytest.mark.parametrize("way", ["discard", "leave", "refused commit"])
async def test_a_turn_ends_whatever_becomes_of_the_request(way: str) -> None:
    door = await in_turn()
    visit = await door.come()
    assert door.open_turns == 1
    if way == "refused commit":
        door.engine.state.failure = SessionUnavailable("nobody answered")
        visit.session["a"] = 2
        with pytest.raises(SessionUnavailable):
            await visit.respond()
    else:
        visit.discard() if way == "discard" else visit.leave()
    assert door.open_turns == 0


async def test_a_turn_ends_when_the_session_is_not_to_be_had_or_gone() -> None:
    door = await in_turn()
    door.engine.state.failure = SessionUnavailable("nobody answered")
    assert (await door.come()).session.failure is not None
    assert door.open_turns == 0
    door.engine.state.failure = None
    door.engine.state.groups.clear()
    assert (await door.come()).session.new
    assert door.open_turns == 0


async def test_a_request_that_is_cancelled_while_it_waits_leaves_nothing_behind(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """R17."""
    door = await in_turn()

    waiting = asyncio.Event()

    async def wait(*_: object) -> Turn | None:
        waiting.set()
        await asyncio.Event().wait()
        raise AssertionError

    monkeypatch.setattr(door.engine.state, "find", wait)
    coming = asyncio.ensure_future(door.come())
    await waiting.wait()
    assert door.open_turns == 1
    coming.cancel()
    await asyncio.wait({coming})
    assert door.open_turns == 0
    assert door.terms.under_way == {}
