"""Clients that keep no cookies carry their sessions in headers, behind both doors."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Mount, Route

from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings
from sessionha.web.asgi import SessionMiddleware
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, Browser
from tests.web.doors import DOORS, Answer, Ask, Door

ROUTES = RouteCookies([b"r" * 32])
TOKEN, ROUTE = "sessionha-token", "sessionha-route"


def engine(session_in: str = "both", **settings: object) -> FakeEngine:
    return FakeEngine(
        ("n1", "n2", "n3"), settings=Settings.load({}, session_in=session_in, **settings)
    )


@dataclass
class Client:
    """Sends back the last two headers that it was told, and nothing else."""

    ask: Ask
    kept: dict[str, str] = field(default_factory=lambda: {TOKEN: "none"})

    async def get(self, path: str, **extra: str) -> Answer:
        answer = await self.ask(path, self.kept | extra)
        assert answer.get("set-cookie") is None, "it keeps no cookies"
        for name in (TOKEN, ROUTE):
            if (value := answer.get(name)) is not None:
                self.kept[name] = value
        return answer


@pytest.fixture(params=DOORS)
def door(request: pytest.FixtureRequest) -> Door:
    found: Door = request.param
    return found


async def test_a_session_lasts_over_requests_without_cookies(door: Door) -> None:
    """System 1 (c), 5: the address and the session are told when they are new or changed."""
    client = Client(door(engine()))
    first = await client.get("/count")
    assert first.json == {"n": 1}
    assert (first.get("cache-control"), first.get("vary")) == (
        "no-store",
        "Cookie, Sessionha-Token",
    )
    route = ROUTES.read(client.kept[ROUTE])
    assert route is not None
    assert route.servers == ("n1", "n2", "n3")
    read = await client.get("/read")
    assert (read.json, read.get(TOKEN), read.get(ROUTE)) == ({"n": 1}, None, None)
    second = await client.get("/count")
    assert (second.json, second.get(TOKEN)) == ({"n": 2}, None)
    assert second.get(ROUTE) != first.get(ROUTE), "a newer position"
    before = client.kept[TOKEN]
    assert (await client.get("/renew")).json == {"n": 2}
    assert client.kept[TOKEN] != before
    assert (await client.get("/count")).json == {"n": 3}


async def test_a_response_without_a_session_tells_nothing(door: Door) -> None:
    client = Client(door(engine()))
    for path in ("/static", "/read"):
        answer = await client.get(path)
        assert (answer.get(TOKEN), answer.get(ROUTE)) == (None, None)
        assert answer.get("cache-control") is None


async def test_the_end_of_a_session_is_told(door: Door) -> None:
    client = Client(door(engine()))
    await client.get("/count")
    await client.get("/leave")
    assert client.kept[TOKEN] == "none"
    assert (await client.get("/count")).json == {"n": 1}


async def test_secondary_sessions_stand_in_the_same_header(door: Door) -> None:
    client = Client(door(engine()))
    assert (await client.get("/cart")).json == {"m": 1}
    assert client.kept[TOKEN].startswith("none~cart=")
    await client.get("/count")
    assert client.kept[TOKEN].count("~cart=") == 1
    assert (await client.get("/cart")).json == {"m": 2}
    assert (await client.get("/count")).json == {"n": 2}
    await client.get("/leave")
    assert client.kept[TOKEN].startswith("none~cart=")
    assert (await client.get("/cart")).json == {"m": 3}


async def test_the_header_decides_and_cookies_beside_it_are_not_looked_at(door: Door) -> None:
    """A script in a page cannot read the session of the page's HttpOnly cookie out of a header."""
    ask = door(engine())
    page = await ask("/count", {})
    script = await ask("/count", {"Cookie": page.cookie, "Sessionha-Token": "none"})
    assert script.json == {"n": 1}, "another session"
    assert script.get("set-cookie") is None
    token = {"Sessionha-Token": script.get(TOKEN) or ""}
    assert (await ask("/count", {"Cookie": page.cookie} | token)).json == {"n": 2}
    assert (await ask("/read", {"Cookie": page.cookie})).json == {"n": 1}


async def test_a_cookie_is_no_token_and_a_token_is_no_cookie(door: Door) -> None:
    home = engine()
    ask = door(home)
    cookie = (await ask("/count", {})).cookie.partition("; ")[0].removeprefix("session=")
    assert (await ask("/count", {TOKEN: cookie})).json == {"n": 1}
    token = (await ask("/count", {TOKEN: "none"})).get(TOKEN) or ""
    assert (await ask("/count", {"Cookie": f"session={token}"})).json == {"n": 1}
    assert home.counts == ["session_cookie_refused"] * 2


@pytest.mark.parametrize(
    "forged",
    [
        "", "~", "none~", "none~~=x", "x" * 100_000, "session=1; session=2", "\x00", "a~b=c~d=e",
        "../../etc", "none; hsr=1.evil~evil.x.y." + "A" * 43, "~" * 5000,
    ],
)  # fmt: skip
async def test_tampered_unknown_and_oversized_ones_are_as_none(door: Door, forged: str) -> None:
    """System 1 (j): no exception, no search."""
    home = engine()
    ask = door(home)
    good = await ask("/count", {TOKEN: "none"})
    token, route = good.get(TOKEN) or "", good.get(ROUTE) or ""
    tampered = token[:-4] + ("AAAA" if token[-4:] != "AAAA" else "BBBB")
    for sent in (forged, tampered, token.upper()):
        for its in (route, forged, tampered):
            answer = await ask("/count", {TOKEN: sent, ROUTE: its})
            assert (answer.status, answer.json) == (200, {"n": 1})
    assert not home.state.acquired
    assert (await ask("/count", {TOKEN: token, ROUTE: forged})).json == {"n": 2}


async def test_where_all_use_headers_no_cookie_is_read_or_set(door: Door) -> None:
    client = Client(door(engine("headers")), {})
    first = await client.get("/count")
    assert first.get("vary") == "Sessionha-Token"
    assert (await client.get("/count")).json == {"n": 2}
    cookie = (await door(engine())("/count", {})).cookie
    assert (await client.ask("/count", {"Cookie": cookie})).json == {"n": 1}


async def test_where_all_use_cookies_the_header_is_nothing(door: Door) -> None:
    ask = door(engine("cookies"))
    answer = await ask("/count", {TOKEN: "none"})
    assert (answer.get(TOKEN), answer.get("vary")) == (None, "Cookie")
    assert answer.cookie.startswith("session=")


async def test_virtual_servers_are_apart_in_headers_too(door: Door) -> None:
    """System 1 (h)"""
    client = Client(door(engine(virtual_server="/admin=admin")))
    await client.get("/count")
    assert (await client.ask("/admin/count", client.kept)).json == {"n": 1}
    assert (await client.get("/count")).json == {"n": 2}


def site(outer: str, inner: str) -> Browser:
    """An application whose session is at `/n`, and one that it mounts, at `/api/n`."""

    def count(request: Request) -> Response:
        request.session["n"] = request.session.get("n", 0) + 1
        return JSONResponse(request.session["n"])

    shared = engine(inner, virtual_server="/api=api,*=site")
    middleware = Middleware(SessionMiddleware, KEY, "api", engine=shared)
    api = Starlette(routes=[Route("/n", count)], middleware=[middleware])
    whole = Starlette(routes=[Mount("/api", app=api), Route("/n", count)])
    around = engine(outer, virtual_server="site")
    around.state = shared.state
    return Browser(SessionMiddleware(whole, KEY, engine=around))


ASKED = {"method": "GET", "root_path": "", "query_string": b"", "asgi": {"spec_version": "2.4"}}


async def test_a_mounted_application_speaks_in_headers_inside_one_that_speaks_in_cookies() -> None:
    browser = site("cookies", "headers")
    headers: list[tuple[bytes, bytes]] = []
    for count in (1, 2, 3):
        answer = await browser.get("/api/n", **ASKED, headers=headers)
        assert (answer.json, answer.cookies) == (count, [])
        route = ROUTES.read(answer.get(ROUTE) or "")
        assert route is not None
        assert route.servers == ("n1", "n2", "n3")
        if (token := answer.get(TOKEN)) is not None:
            headers = [(TOKEN.encode(), token.encode())]
    assert (await browser.get("/n", **ASKED)).cookies == ["session", "hsr"]


async def test_of_two_that_could_the_outer_one_speaks_in_headers() -> None:
    browser = site("both", "both")
    asks = [(TOKEN.encode(), b"none")]
    assert (await browser.get("/n", **ASKED, headers=asks)).get(TOKEN) is not None
    inside = await browser.get("/api/n", **ASKED, headers=asks)
    assert (inside.get(TOKEN), inside.cookies) == (None, ["api", "hsr"])
    assert (await browser.get("/api/n", **ASKED)).json == 2
