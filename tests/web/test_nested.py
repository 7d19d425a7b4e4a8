"""A middleware inside another: an application, and one that it mounts, serve one client."""

from __future__ import annotations

from typing import Any

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from sessionha import SessionMiddleware, current_session, session_from
from sessionha.errors import SessionUnavailable
from sessionha.session.cookies import Route as Told
from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings
from sessionha.web.asgi import Receive, Scope, Send
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, Answer, Browser, middleware, reply

ROUTES = RouteCookies([b"r" * 32])
ASKED = {"method": "GET", "root_path": "", "query_string": b"", "asgi": {"spec_version": "2.4"}}


class Engine(FakeEngine):
    """The process's one engine, as a middleware with this virtual server sees it."""

    def __init__(self, shared: FakeEngine, virtual_server: str) -> None:
        self.__dict__ = {**shared.__dict__}
        self.settings = Settings.load({}, virtual_server=virtual_server)


def add(request: Request) -> Response:
    """Count in the application's session, if the query names it."""
    name = request.scope["root_path"].strip("/") or "portal"
    if name in request.url.query.split("&"):
        request.session["n"] = request.session.get("n", 0) + 1
    assert current_session() is session_from(request)
    return JSONResponse(dict(request.session))


class Site:
    """A portal that mounts a shop; each has its own sessions, and the portal counts every hit."""

    def __init__(self, shop_server: str = "shop") -> None:
        self.engine = FakeEngine(("n1", "n2", "n3"))
        shop = Starlette(
            routes=[Route("/", add)],
            middleware=[
                Middleware(
                    SessionMiddleware,
                    secret_key=KEY,
                    session_cookie="shop",
                    engine=Engine(self.engine, shop_server),
                )
            ],
        )
        routes = [Mount("/shop", app=self.hit(shop)), Route("/", add)]
        self.app = SessionMiddleware(Starlette(routes=routes), KEY, engine=self.engine)

    def hit(self, app: Any) -> Any:
        async def counted(scope: Scope, receive: Receive, send: Send) -> None:
            outside = scope["session"]
            if b"portal" in scope["query_string"]:
                outside["n"] = outside.get("n", 0) + 1
            if b"look" in scope["query_string"]:
                outside.get("n")
            if b"meanwhile" in scope["query_string"]:
                (group,) = self.engine.state.groups.values()
                group.position = group.position._replace(version=group.position.version + 1)
            await app(scope, receive, send)
            assert scope["session"] is outside, "as it was before"
            assert current_session() is scope["sessionha"]

        return counted

    async def get(self, browser: Browser, path: str, query: str = "") -> Answer:
        return await browser.get(path, **(ASKED | {"query_string": query.encode()}))

    def browser(self) -> Browser:
        return Browser(self.app)


def route(browser: Browser) -> Told:
    told = ROUTES.read(browser.jar["hsr"])
    assert told is not None
    return told


async def test_a_session_that_begins_inside_joins_the_group_that_began_outside() -> None:
    """System 4 (h), 3: before any cookie names a group; one batch, one route cookie."""
    site = Site()
    browser = site.browser()
    answer = await site.get(browser, "/shop/", "portal&shop")
    assert answer.json == {"n": 1}
    assert sorted(answer.cookies) == ["hsr", "session", "shop"]
    (group,) = site.engine.state.groups.values()
    assert len(group.sessions) == 2
    assert len(site.engine.state.batches) == 1
    assert route(browser).position == group.position
    assert (await site.get(browser, "/")).json == {"n": 1}


async def test_the_portal_does_not_take_the_shops_session_for_its_own() -> None:
    """Starlette hands one scope to both."""
    site = Site()
    browser = site.browser()
    await site.get(browser, "/", "portal")
    for count in (1, 2):
        answer = await site.get(browser, "/shop/", "shop")
        assert answer.json == {"n": count}
        assert "session" not in answer.cookies
    assert (await site.get(browser, "/")).json == {"n": 1}


@pytest.mark.parametrize("first", ["/", "/shop/"])
async def test_a_session_of_a_later_request_joins_the_group(first: str) -> None:
    """Whichever application the client visits first."""
    site = Site()
    browser = site.browser()
    await site.get(browser, first, first.strip("/") or "portal")
    await site.get(browser, "/shop/", "portal&shop")
    assert len(site.engine.state.groups) == 1
    assert len(site.engine.state.batches) == 2
    last = route(browser).position
    (group,) = site.engine.state.groups.values()
    assert last == group.position


async def test_a_read_of_both_tells_one_route_at_most() -> None:
    site = Site()
    browser = site.browser()
    await site.get(browser, "/shop/", "portal&shop")
    assert (await site.get(browser, "/shop/")).cookies == []
    del browser.jar["hsr"]
    assert (await site.get(browser, "/shop/")).cookies == ["hsr"]


async def test_sessions_of_two_groups_stay_apart_and_the_later_route_is_told_last() -> None:
    site = Site()
    browser, other = site.browser(), site.browser()
    await site.get(browser, "/", "portal")
    await site.get(other, "/shop/", "shop")
    browser.jar["shop"] = other.jar["shop"]
    answer = await site.get(browser, "/shop/", "portal&shop")
    assert len(site.engine.state.groups) == 2
    assert answer.cookies == ["hsr", "hsr"]
    assert len(site.engine.state.batches) == 4
    assert route(browser).group == site.engine.state.batches[-1].group
    for query in ("shop", "shop&look"):
        answer = await site.get(browser, "/shop/", query)
        assert answer.cookies == ["hsr"], "the portal's session was not changed"
        assert route(browser).group == site.engine.state.batches[-1].group


@pytest.mark.parametrize("query", ["portal&shop", "portal&shop&meanwhile"])
async def test_a_batch_of_both_tells_what_the_older_view_was(query: str) -> None:
    """What somebody changed after either had read is merged, not overwritten."""
    site = Site()
    browser = site.browser()
    await site.get(browser, "/shop/", "shop")
    (group,) = site.engine.state.groups.values()
    first = group.position
    await site.get(browser, "/shop/", "portal&shop")
    assert site.engine.state.batches[-1].read == first
    second = group.position
    await site.get(browser, "/shop/", query)
    assert site.engine.state.batches[-1].read == second


async def test_two_middlewares_around_one_session_are_committed_one_after_the_other() -> None:
    """The same virtual server and cookie: what one destroys, a batch of both would not."""
    engine = FakeEngine(("n1", "n2"))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["inner"] = scope["session"].get("inner", 0) + 1
        await reply(send, dict(scope["session"]))

    inner = middleware(app, engine)

    async def around(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["outer"] = 1
        await inner(scope, receive, send)

    browser = Browser(middleware(app, engine))
    await browser.get()
    browser.app = middleware(around, engine)
    await browser.get()
    assert len(engine.state.batches) == 3
    browser.app = middleware(app, engine)
    assert (await browser.get()).json == {"inner": 3, "outer": 1}
    told = route(browser)
    (group,) = engine.state.groups.values()
    assert told.position == group.position


async def test_two_middlewares_around_one_session_wait_for_one_turn() -> None:
    """The second turn would wait for the first for ever."""
    engine = FakeEngine()

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["n"] = 1
        await reply(send)

    browser = Browser(middleware(app, engine))
    await browser.get()
    engine.state.local, engine.state.turns = False, []
    browser.app = middleware(middleware(app, engine), engine)
    await browser.get()
    assert len(engine.state.turns) == 1


async def test_an_inner_application_that_fails_leaves_the_outer_session_alone() -> None:
    engine = FakeEngine(("n1", "n2"))

    async def broken(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["n"] = 1
        raise RuntimeError("broken")

    inner = middleware(broken, Engine(engine, "shop"), session_cookie="shop")

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["n"] = 1
        with pytest.raises(RuntimeError):
            await inner(scope, receive, send)
        await reply(send, dict(scope["session"]), 500)

    browser = Browser(middleware(app, engine))
    answer = await browser.get()
    assert (answer.status, answer.cookies) == (500, ["session", "hsr"])
    assert answer.json == {"n": 1}


async def test_a_commit_of_both_that_fails_is_one_503() -> None:
    site = Site()
    browser = site.browser()
    site.engine.state.failure = SessionUnavailable("nobody answered")
    answer = await site.get(browser, "/shop/", "portal&shop")
    assert (answer.status, answer.cookies) == (503, [])
    site.engine.state.failure = None
    assert (await site.get(browser, "/shop/")).json == {}


@pytest.mark.parametrize(("query", "status"), [("portal&shop", 503), ("shop", 200)])
async def test_an_outer_change_is_not_dropped_under_another_answer(query: str, status: int) -> None:
    """The portal replaces the shop's 503; but what it changed itself was in the same batch."""
    site = Site()
    inner = site.app.app

    async def forgiving(scope: Scope, receive: Receive, send: Send) -> None:
        answers: list[Any] = []

        async def keep(message: Any) -> None:
            answers.append(message)

        await inner(scope, receive, keep)
        assert answers[0]["status"] == 503
        await reply(send, "the shop is closed")

    browser = site.browser()
    await site.get(browser, "/shop/", "portal&shop")
    site.app.app = forgiving
    site.engine.state.failure = SessionUnavailable("nobody answered")
    assert (await site.get(browser, "/shop/", query)).status == status


async def test_an_application_that_is_called_for_another_client_is_no_inner_one() -> None:
    """A handler that calls an application in its own process, with a scope of its own."""
    engine = FakeEngine(("n1", "n2"))

    async def write(scope: Scope, receive: Receive, send: Send) -> None:
        current_session()["n"] = 1
        await reply(send)

    other = Browser(middleware(write, Engine(engine, "other")))

    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        mine = current_session()
        mine["n"] = 1
        await other.get()
        assert current_session() is mine
        await reply(send)

    await Browser(middleware(app, engine)).get()
    assert len(engine.state.groups) == 2
    assert set(other.jar) == {"session", "hsr"}
