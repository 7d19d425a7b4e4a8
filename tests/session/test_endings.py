"""Commits that meet the end of a request, or what was refused: nothing is lost without a word."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from sessionha.errors import SessionRevoked, SessionTooLarge, SessionUnavailable
from sessionha.session.company import NOBODYS
from sessionha.session.session import Session
from sessionha.session.visit import Visit
from sessionha.state.base import Receipt
from sessionha.state.manager import StateManager
from tests.session import places
from tests.session.places import Alone, Browser, terms


@pytest.fixture
def alone() -> Alone:
    return places.alone()


class Slow:
    """Holds commits up once they are applied, as backups do, until `go` is set."""

    def __init__(self, state: StateManager, monkeypatch: pytest.MonkeyPatch) -> None:
        self.under_way = asyncio.Event()
        self.go = asyncio.Event()
        self._commit = state.commit
        monkeypatch.setattr(state, "commit", self.commit)

    async def commit(self, *args: Any, **about: Any) -> Receipt:
        receipt = await self._commit(*args, **about)
        self.under_way.set()
        await self.go.wait()
        return receipt


def visit_by(browser: Browser, at: Alone, outer: Visit | None = None) -> Visit:
    """A request that has its sessions."""
    cookies = "; ".join(f"{name}={value}" for name, value in browser.jar.items())
    visit = Visit(at.place, browser.terms, [cookies], outer=outer)
    assert visit.arrive()
    return visit


async def test_a_commit_that_waits_while_the_request_ends_stores_all(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """R15: it was asked for while the request ran, so it takes the other sessions along."""
    browser = Browser(terms())

    def begin(visit: Visit) -> None:
        visit.session["a"] = visit.session.secondary("cart")["b"] = 0

    await browser.visit(alone.place, begin)
    visit = visit_by(browser, alone)
    session, cart = visit.session, visit.session.secondary("cart")
    await visit.respond()
    slow = Slow(alone.place.state, monkeypatch)
    session["a"] = 1  # while the body streamed
    ending = asyncio.create_task(visit.end())
    await slow.under_way.wait()
    session["c"] = cart["b"] = 2
    task = asyncio.create_task(session.commit())
    await asyncio.sleep(0)
    slow.go.set()
    await ending
    visit.leave()
    assert await task is not None
    seen: list[object] = []
    await browser.visit(
        alone.place,
        lambda visit: seen.extend((dict(visit.session), dict(visit.session.secondary("cart")))),
    )
    assert seen == [{"a": 1, "c": 2}, {"b": 2}]


async def test_increments_of_a_kept_session_are_done_once(
    alone: Alone, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application raises, or is cancelled, while a task that it began commits."""
    browser = Browser(terms())
    await browser.visit(alone.place, lambda visit: visit.session.increment("n"))
    slow = Slow(alone.place.state, monkeypatch)
    visit = visit_by(browser, alone)
    session = visit.session
    session.increment("n")
    task = asyncio.create_task(session.commit())
    await slow.under_way.wait()
    visit.leave()
    slow.go.set()
    await task
    assert NOBODYS.known is None
    await browser.visit(alone.place, lambda visit: visit.session.increment("n"))
    session.increment("n")
    await session.commit()
    assert await browser.read(alone.place, "n") == 4


async def test_nothing_can_be_put_into_what_all_visits_share() -> None:
    """G8: a thread may get hold of it while its request ends."""

    def put(session: Session) -> None:
        session["n"] = 1

    def flag(session: Session) -> None:
        session.touched = True

    def lend(session: Session) -> None:
        session.as_dict()["n"] = 1

    for misuse in (put, flag, lend, dict, Session.clear, Session.destroy, Session.touch):
        with pytest.raises(LookupError, match="the request is over"):
            misuse(NOBODYS)
    with pytest.raises(LookupError, match="the request is over"):
        await NOBODYS.commit()
    NOBODYS.discard()
    assert not NOBODYS.accessed


async def test_a_commit_after_a_refusal_or_a_log_out_says_so(alone: Alone) -> None:
    """R15: nothing is stored any more, and that is no silent success."""
    browser = Browser(terms())
    await browser.write(alone.place, n=0)
    refused, revoked = visit_by(browser, alone), visit_by(browser, alone)
    refused.session["n"] = revoked.session["n"] = 1
    refused.discard()  # its door answered 503
    await browser.visit(alone.place, lambda visit: visit.session.destroy())
    await revoked.respond()
    for visit, error in ((refused, SessionUnavailable), (revoked, SessionRevoked)):
        visit.session["n"] = 2
        with pytest.raises(error):
            await visit.session.commit()


async def test_a_mistake_in_an_inner_session_is_not_the_outer_ones(alone: Alone) -> None:
    """The outer application handles what the inner one got wrong, and answers 200."""
    browser = Browser(terms())
    await browser.write(alone.place, n=0)
    outer = visit_by(browser, alone)
    inner = visit_by(Browser(terms(name="other", server="b"), browser.jar), alone, outer)
    outer.session["n"] = 1
    inner.session["big"] = "x" * 100_000
    with pytest.raises(SessionTooLarge):
        await inner.respond()
    inner.leave()
    await outer.respond()
    outer.leave()
    assert await browser.read(alone.place, "n") == 1
