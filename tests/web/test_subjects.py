"""Whose a session is, and what a user does with all of theirs: list, end one, the others, all."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import pytest

from sessionha.engine import Engine
from sessionha.errors import SessionError, SessionRevoked
from sessionha.session.session import Session
from sessionha.settings import Settings
from sessionha.state.subjects import Subjects
from sessionha.web.asgi import Receive, Scope, Send, SessionMiddleware
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, Browser, middleware, reply

USER = "user:42"


async def account(scope: Scope, receive: Receive, send: Send) -> None:
    """An application with log-in and a page of devices."""
    session: Session = scope["sessionha"]
    match scope["path"].strip("/").split("/"):
        case ["login", user]:
            session["user"] = user
            session.subject = user
            session.renew_id()
        case ["subject", user]:
            session.subject = None if user == "nobody" else user
        case ["cart", item]:
            session["cart"] = item
        case ["subject"]:
            return await reply(send, session.subject)
        case ["devices"]:
            found = await session.siblings()
            return await reply(send, [[each.id, each.current] for each in found.sessions])
        case ["end", name]:
            return await reply(send, (await session.revoke(name)).ended)
        case ["others"]:
            return await reply(send, (await session.revoke_others()).ended)
        case ["login-and-others", user]:
            session.subject = user
            session.renew_id()
            return await reply(send, (await session.revoke_others()).ended)
        case ["all"]:
            return await reply(send, (await session.revoke_all()).ended)
        case ["clear"]:
            session.clear()
        case ["anonymous"]:
            with pytest.raises(SessionError, match="has no subject"):
                await session.siblings()
        case _:
            pass
    await reply(send, dict(session))


@pytest.fixture
async def site() -> AsyncIterator[SessionMiddleware]:
    engine = Engine(Settings.load({}, store="memory"), (KEY.encode(),))
    await engine.start()
    yield SessionMiddleware(account, KEY, engine=engine)
    await engine.stop()


async def logged_in(site: SessionMiddleware, user: str = USER) -> Browser:
    browser = Browser(site)
    await browser.get(f"/login/{user}")
    return browser


async def devices(browser: Browser) -> Any:
    return (await browser.get("/devices")).json


# --- the subject ---------------------------------------------------------------------------------


async def test_a_subject_lasts_over_requests_and_renewals(site: SessionMiddleware) -> None:
    browser = await logged_in(site)
    ((before, _),) = await devices(browser)
    jar = dict(browser.jar)
    await browser.get(f"/login/{USER}")
    assert browser.jar != jar, "another ID"
    assert (await browser.get("/subject")).json == USER
    assert await devices(browser) == [[before, True]], "for people it is the same session"


async def test_a_subject_alone_begins_a_session(site: SessionMiddleware) -> None:
    browser = Browser(site)
    answer = await browser.get(f"/subject/{USER}")
    assert answer.cookies == ["session"]
    assert (await browser.get("/subject")).json == USER


async def test_clear_takes_the_subject_too_and_none_takes_only_it(
    site: SessionMiddleware,
) -> None:
    browser = await logged_in(site)
    await browser.get("/subject/nobody")
    assert (await browser.get("/subject")).json is None
    assert (await browser.get()).json == {"user": USER}
    other = await logged_in(site)
    await other.get("/clear")
    assert other.jar == {}


async def test_a_change_that_is_put_back_is_not_committed() -> None:
    engine = FakeEngine()

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["sessionha"]
        if scope["path"] == "/login":
            session.subject, session["a"] = USER, 1
        else:
            session.subject = "user:7"
            session.subject = USER
        await reply(send)

    browser = Browser(middleware(application, engine))
    await browser.get("/login")
    await browser.get("/again")
    assert len(engine.state.batches) == 1


@pytest.mark.parametrize("wrong", ["", "x" * 129, "é" * 65, "\ud800", 42, b"user"])
def test_what_is_no_subject_is_refused_without_being_told(wrong: Any) -> None:
    session = Session()
    with pytest.raises((TypeError, ValueError), match="a subject") as caught:
        session.subject = wrong
    assert not wrong or str(wrong) not in str(caught.value)
    assert session.subject is None
    assert not session.modified


async def test_the_door_shows_neither_session_id_nor_its_hash(site: SessionMiddleware) -> None:
    browser = await logged_in(site)
    ((name, _),) = await devices(browser)
    assert name not in browser.jar["session"]
    assert browser.jar["session"][:40] not in name
    with_it = Browser(site, {"session": name})
    assert (await with_it.get()).json == {}, "it opens nothing"


# --- one user's sessions -------------------------------------------------------------------------


async def test_a_user_sees_their_own_sessions_and_which_is_this_one(
    site: SessionMiddleware,
) -> None:
    """Contract G8."""
    phone, laptop = await logged_in(site), await logged_in(site)
    stranger = await logged_in(site, "user:7")
    seen = await devices(phone)
    assert len(seen) == 2
    assert sorted(current for _, current in seen) == [False, True]
    assert {name for name, _ in seen} == {name for name, _ in await devices(laptop)}
    assert len(await devices(stranger)) == 1
    assert (await Browser(site).get("/anonymous")).status == 200


async def test_one_session_is_ended_by_its_id_and_never_a_stranger_s(
    site: SessionMiddleware,
) -> None:
    """Contract G6, G8."""
    phone, laptop = await logged_in(site), await logged_in(site)
    stranger = await logged_in(site, "user:7")
    (other,) = [name for name, current in await devices(phone) if not current]
    ((strange, _),) = await devices(stranger)
    for name, ended in ((other, 1), (strange, 0), (other, 0), ("nonsense", 0), ("é", 0)):
        assert (await phone.get(f"/end/{name}")).json == ended
    assert (await laptop.get()).json == {}
    assert (await phone.get()).json == {"user": USER}
    assert (await stranger.get()).json == {"user": "user:7"}


async def test_who_ends_this_very_session_is_logged_out(site: SessionMiddleware) -> None:
    phone = await logged_in(site)
    ((mine, _),) = await devices(phone)
    assert (await phone.get(f"/end/{mine}")).json == 1
    assert phone.jar == {}


async def test_all_others_are_ended_and_this_one_goes_on(site: SessionMiddleware) -> None:
    """Contract G6; later renewals of the one that was kept included."""
    browsers = [await logged_in(site) for _ in range(4)]
    assert (await browsers[0].get("/others")).json == 3
    for browser in browsers[1:]:
        assert (await browser.get()).json == {}
    await browsers[0].get(f"/login/{USER}")
    assert (await browsers[0].get()).json == {"user": USER}
    again = await logged_in(site)
    assert (await again.get()).json == {"user": USER}
    assert (await browsers[0].get("/others")).json == 1


async def test_others_may_be_ended_by_the_request_that_logs_in(site: SessionMiddleware) -> None:
    """A visitor with a cart logs in, and is then logged in there alone."""
    before = await logged_in(site)
    visitor = Browser(site)
    await visitor.get("/cart/tea")
    assert (await visitor.get(f"/login-and-others/{USER}")).json == 1
    assert (await visitor.get()).json == {"cart": "tea"}
    assert (await before.get()).json == {}


async def test_log_out_everywhere_ends_all_and_clears_this_browser_s_cookie(
    site: SessionMiddleware,
) -> None:
    """Contract G6."""
    phone, laptop = await logged_in(site), await logged_in(site)
    assert (await phone.get("/all")).json == 2
    assert phone.jar == {}
    assert (await laptop.get()).json == {}
    await phone.get(f"/login/{USER}")
    assert len(await devices(phone)) == 1


async def test_a_request_that_was_under_way_stores_nothing(site: SessionMiddleware) -> None:
    """Contract G6: "log-out against a slow request"."""
    phone, laptop = await logged_in(site), await logged_in(site)
    told: list[BaseException] = []

    async def slow(scope: Scope, receive: Receive, send: Send) -> None:
        session = scope["sessionha"]
        session["cart"] = "late"
        await laptop.get("/all")
        with pytest.raises(SessionRevoked) as caught:
            await session.commit()
        told.append(caught.value)
        await reply(send)

    engine = site._engine
    await Browser(SessionMiddleware(slow, KEY, engine=engine), phone.jar).get()
    assert len(told) == 1
    assert (await phone.get()).json == {}


async def test_without_peers_nothing_waits_on_an_event_loop(site: SessionMiddleware) -> None:
    """So it works under any loop, as every session of a single node does."""
    engine = site._engine
    assert isinstance(engine, Engine)
    subjects: Subjects = engine.state.subjects
    await logged_in(site)
    for work in (subjects.sessions_of(USER), subjects.revoke(USER, b"x" * 8)):
        with pytest.raises(StopIteration):
            work.send(None)
