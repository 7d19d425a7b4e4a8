"""Requests that are opted out: they see an empty session, and leave nothing behind."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

import pytest

from sessionha import SessionError, bots, current_session, preflights
from sessionha.errors import InvalidSettings
from sessionha.web.asgi import Receive, Scope, Send, SessionMiddleware, session_from
from sessionha.web.wsgi import WSGISessionMiddleware
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, Browser, reply
from tests.web.doors import DOORS, Door

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

EXCLUDE = ["/static/", "/healthz", bots, preflights]
"""What these tests' doors are made with."""


def agent(name: str) -> dict[str, str]:
    return {"User-Agent": name}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", ["/static/count", "/healthz"])
async def test_a_path_that_is_opted_out_stores_and_sets_nothing(door: Door, path: str) -> None:
    engine = FakeEngine()
    ask = door(engine, exclude=["/static/", "/healthz"])
    answer = await ask(path, {})
    assert (answer.status, answer.get("set-cookie"), answer.get("vary")) == (200, None, None)
    assert engine.state.groups == {}


@pytest.mark.parametrize("door", DOORS)
async def test_a_path_that_is_opted_out_sees_no_session(door: Door) -> None:
    """Not even where the client has one, and keeps it."""
    ask = door(FakeEngine(), exclude=["/static/"])
    cookie = {"Cookie": (await ask("/count", {})).cookie}
    assert (await ask("/static/count", cookie)).json == {"n": 1}
    assert (await ask("/static/leave", cookie)).json is None
    assert (await ask("/count", cookie)).json == {"n": 2}


@pytest.mark.parametrize("door", DOORS)
@pytest.mark.parametrize("path", ["/statics", "/health", "/healthz/", "/a/static/count"])
async def test_other_paths_have_sessions(door: Door, path: str) -> None:
    """A path without a slash at its end is that one alone; one with it, what is below."""
    cookie = {"Cookie": (await door(engine := FakeEngine())("/count", {})).cookie}
    assert (await door(engine, exclude=EXCLUDE)(path, cookie)).get("vary") == "Cookie"


@pytest.mark.parametrize("door", DOORS)
async def test_predicates_opt_requests_out(door: Door) -> None:
    engine = FakeEngine()
    ask = door(engine, exclude=[bots])
    answer = await ask("/count", agent("Mozilla/5.0 (compatible; Googlebot/2.1)"))
    assert (answer.json, answer.get("set-cookie"), engine.state.groups) == ({"n": 1}, None, {})
    assert (await ask("/count", agent("Mozilla/5.0 (X11; Linux x86_64)"))).get("set-cookie")


@pytest.mark.parametrize("door", DOORS)
async def test_secondary_sessions_of_such_a_request_are_forgotten_too(door: Door) -> None:
    engine = FakeEngine()
    answer = await door(engine, exclude=["/cart"])("/cart", {})
    assert (answer.json, answer.get("set-cookie"), engine.state.groups) == ({"m": 1}, None, {})


async def test_a_commit_says_that_the_request_is_opted_out() -> None:
    async def app(scope: Scope, receive: Receive, send: Send) -> None:
        session = current_session()
        assert session is session_from(scope)
        for each in (session, session.secondary("cart")):
            each["n"] = 1
            with pytest.raises(SessionError, match="opted out"):
                await each.commit()
        await reply(send)

    door = SessionMiddleware(app, KEY, engine=FakeEngine(), exclude=["/"])
    assert (await Browser(door).get("/any")).status == 200


def test_a_commit_of_a_wsgi_application_says_so_too() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        environ["sessionha.session"]["n"] = 1
        with pytest.raises(SessionError, match="opted out"):
            environ["sessionha.wait"](current_session().commit())
        return [json.dumps(dict(current_session())).encode()]

    door = WSGISessionMiddleware(app, KEY, engine=FakeEngine(), exclude=["/"])
    assert [*door({"PATH_INFO": "/any"}, lambda *_: print)] == [b'{"n": 1}']


async def test_a_door_inside_another_gives_the_outer_session_back() -> None:
    engine = FakeEngine()

    async def inner(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["inner"] = True

    inside = SessionMiddleware(inner, KEY, engine=engine, exclude=["/"])

    async def outer(scope: Scope, receive: Receive, send: Send) -> None:
        scope["session"]["outer"] = True
        await inside(scope, receive, send)
        await reply(send, dict(scope["session"]))

    browser = Browser(SessionMiddleware(outer, KEY, engine=engine))
    assert (await browser.get()).json == {"outer": True}


def asked(**headers: str) -> dict[str, Any]:
    named = {name.replace("_", "-").encode(): value.encode() for name, value in headers.items()}
    return {"type": "http", "method": "OPTIONS", "headers": [*named.items()]}


def test_a_preflight_is_what_browsers_send_before_a_request_of_another_origin() -> None:
    assert preflights(asked(access_control_request_method="PUT"))
    assert not preflights(asked())
    assert not preflights(asked(access_control_request_method="PUT") | {"method": "GET"})
    environ = {"REQUEST_METHOD": "OPTIONS", "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "PUT"}
    assert preflights(environ)


@pytest.mark.parametrize(
    ("name", "is_one"),
    [
        ("Mozilla/5.0 (compatible; bingbot/2.0; +http://www.bing.com/bingbot.htm)", True),
        ("facebookexternalhit/1.1", True),
        ("kube-probe/1.31", True),
        ("Mozilla/5.0 (Linux; Android 9; CUBOT) AppleWebKit/537.36", False),
        ("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", False),
        ("", False),
    ],
)
def test_bots_say_what_they_are(name: str, is_one: bool) -> None:
    assert bots(asked(user_agent=name)) is is_one
    assert bots({"REQUEST_METHOD": "GET", "HTTP_USER_AGENT": name}) is is_one


@pytest.mark.parametrize(
    ("exclude", "words"),
    [
        ("/static/", "is no list"),
        (["static/"], "paths begin with `/`"),
        (["/ok", 5], "neither a path nor a function"),
    ],
)
def test_mistakes_are_told_at_the_start(exclude: Any, words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        WSGISessionMiddleware(lambda *_: [], KEY, engine=FakeEngine(), exclude=exclude)
