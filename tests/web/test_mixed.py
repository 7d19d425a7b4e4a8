"""A door for threads and event loops of one process, and for sessions by their IDs."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from sessionha import InvalidSettings, MixedDoor, MixedExchange, Promise, current_session
from sessionha.web.threads import host_for
from tests.web.browser import KEY

PROMISE = Promise((KEY,), "sessionid", 3600)


@pytest.fixture(params=["merge", "serialize"])
def door(request: pytest.FixtureRequest) -> Iterator[MixedDoor]:
    """With turns the engine needs a loop, and has one of its own."""
    door = MixedDoor(PROMISE, store="memory", concurrency=request.param)
    yield door
    door.start().stop()


def in_a_thread(step: Callable[[], Any]) -> Any:
    """What the step returns, in a thread that has no event loop."""
    found: list[Any] = []
    thread = threading.Thread(target=lambda: found.append(step()))
    thread.start()
    thread.join()
    return found[0]


def entered(door: MixedDoor, cookies: str = "") -> MixedExchange:
    """A request."""
    return door.admit(cookies, PROMISE, secure=False, environ={})


def begun(door: MixedDoor, **values: Any) -> str:
    """The ID of a new session."""
    exchange = door.find(None, PROMISE)
    exchange.session.update(values)
    exchange.save()
    assert exchange.session.id is not None
    return exchange.session.id


async def test_a_session_is_used_from_threads_and_from_several_loops(door: MixedDoor) -> None:
    session_id = await asyncio.to_thread(begun, door, n=1)

    async def count() -> Any:
        exchange = await door.find_async(session_id, PROMISE)
        exchange.session["n"] += 1
        await exchange.asave()
        return exchange.session["n"]

    assert await count() == 2
    assert in_a_thread(lambda: asyncio.run(count())) == 3
    assert in_a_thread(lambda: door.find(session_id, PROMISE).session["n"]) == 3


async def test_the_cookie_of_a_request_is_the_bare_id(door: MixedDoor) -> None:
    session_id = await asyncio.to_thread(begun, door, n=1)
    cookies = f"sessionid={session_id}"
    exchange = await door.admit_async(cookies, PROMISE, secure=False, environ={})
    assert current_session() is exchange.session
    exchange.session["n"] = 2
    assert exchange.changed
    told = await exchange.acommit()
    assert (told.cookies, told.headers, exchange.changed) == ([], [], False)
    exchange.session["n"] = 3
    await exchange.aend()
    exchange.leave()
    assert door.find(session_id, PROMISE).session["n"] == 3


def test_code_that_is_not_in_the_request_needs_no_turn(door: MixedDoor) -> None:
    session_id = begun(door, n=1)
    exchange = entered(door, f"sessionid={session_id}")
    assert door.find(session_id, PROMISE).session["n"] == 1
    exchange.commit()
    exchange.leave()


def test_an_id_that_nobody_made_is_not_adopted(door: MixedDoor) -> None:
    for wrong in ("x" * 56, "", None):
        exchange = door.find(wrong, PROMISE)
        assert exchange.session.new
        exchange.session.begin()
        assert exchange.save()
        assert exchange.session.id != wrong
    assert door.is_ours(door.new_id(PROMISE), PROMISE)
    assert not door.is_ours("x" * 56, PROMISE)


def test_a_session_that_was_renewed_by_another_request_was_overtaken(door: MixedDoor) -> None:
    """So the newer cookie, that the browser may have by now, is not cleared."""
    session_id = begun(door, n=1)
    other = door.find(session_id, PROMISE)
    other.session.renew_id()
    other.save()
    exchange = entered(door, f"sessionid={session_id}")
    assert (exchange.session.new, exchange.was_overtaken, exchange.may_begin) == (True, True, True)
    exchange.leave()
    exchange = entered(door, "sessionid=forged")
    assert (exchange.session.new, exchange.was_overtaken) == (True, False)
    exchange.leave()


def test_an_engine_that_is_silent_is_a_failure_of_the_session(
    door: MixedDoor, monkeypatch: pytest.MonkeyPatch
) -> None:
    host = door.start()
    monkeypatch.setattr(host, "patience", 0.02)
    assert host._lock.acquire()
    try:
        exchange = entered(door)
    finally:
        host._lock.release()
    assert type(exchange.session.failure).__name__ == "EngineSilent"
    assert host is host_for(host.engine)
    exchange.leave()


def test_sessions_in_headers_are_not_for_it() -> None:
    with pytest.raises(InvalidSettings, match="`session_in` = 'both' is not for this framework"):
        MixedDoor(PROMISE, store="memory", session_in="both")


def test_the_sessions_of_a_user_are_listed_and_ended(door: MixedDoor) -> None:
    exchange = door.find(None, PROMISE)
    exchange.session.subject = "user:1"
    exchange.save()
    (found,) = door.sessions_of("user:1").sessions
    assert door.revoke("user:1", "nonsense").ended == 0
    assert door.revoke("user:1", found.id).ended == 1
    assert door.sessions_of("user:1").sessions == ()
    assert door.revoke("user:1").ended == 0


# --- which sessions an ID opens ---


@pytest.mark.parametrize("name", ["sessionid-cart", "other"])
def test_an_id_of_another_cookie_opens_nothing(name: str) -> None:
    """Neither that of a secondary session, nor that of another application with this key."""
    door = MixedDoor(PROMISE, store="memory")
    exchange = entered(door)
    exchange.session.secondary("cart")["n"] = 1
    (cookie,) = exchange.commit().cookies
    exchange.leave()
    of_cart, *_ = (cookie.value or "").split(".")
    of_other = door.new_id(Promise((KEY,), "other", 3600))
    session_id = {"sessionid-cart": of_cart, "other": of_other}[name]
    assert not door.is_ours(session_id, PROMISE)
    assert entered(door, f"sessionid={session_id}").session.new
    assert door.find(session_id, PROMISE).session.new


def test_sessions_are_found_in_the_virtual_server_of_the_request() -> None:
    door = MixedDoor(PROMISE, store="memory", virtual_server="/members=members,*=shop")
    members = {"PATH_INFO": "/members/1"}
    exchange = door.admit("", PROMISE, secure=False, environ=members)
    exchange.session["n"] = 1
    exchange.save()
    session_id = exchange.session.id
    assert door.find(session_id, PROMISE).session["n"] == 1  # in the request
    exchange.commit()
    exchange.leave()
    assert door.find(session_id, PROMISE).session.new
    assert door.find(session_id, PROMISE, exchange).session["n"] == 1
