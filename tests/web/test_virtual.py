"""Virtual servers: sessions are apart by setting, by host and by path, behind both doors."""

from __future__ import annotations

from typing import Any

import pytest

from sessionha import MixedDoor, Promise, WSGISessionMiddleware, refusal
from sessionha.errors import InvalidSettings
from sessionha.settings import Settings
from sessionha.virtual import VirtualServers
from sessionha.web.asgi import Message, Receive, Scope, Send, SessionMiddleware
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, receive
from tests.web.doors import DOORS, Door

MAPPING = (
    "shop.example=shop,*.blog.example=blog,a.blog.example=ann,/admin=admin,/admin/log=log,*=main"
)


def engine(virtual_server: object, *holders: str) -> FakeEngine:
    settings = Settings.load({}, virtual_server=virtual_server)
    return FakeEngine(holders or ("n1",), settings=settings)


@pytest.mark.parametrize(
    ("host", "path", "name"),
    [
        ("shop.example", "/", "shop"),
        ("SHOP.example.:8443", "/cart", "shop"),
        ("xshop.example", "/", "main"),
        ("a.blog.example", "/", "ann"),
        ("b.blog.example", "/", "blog"),
        ("b.c.blog.example:80", "/", "blog"),
        ("blog.example", "/", "main"),
        ("shop.example", "/admin", "admin"),
        ("unknown.example", "/admin/users", "admin"),
        ("unknown.example", "/admin/log/today", "log"),
        ("unknown.example", "/administration", "main"),
        ("", "/", "main"),
        ("x" * 5000, "/", "main"),
        ("[::1]:8000", "/", "main"),
        ("]=\x00,", "//admin", "main"),
    ],
)
def test_the_host_or_the_path_names_the_virtual_server(host: str, path: str, name: str) -> None:
    """System 1, 4: and no request makes one that is not written down."""
    servers = Settings.load({}, virtual_server=MAPPING).virtual_server
    assert servers.of(host, path) == name
    assert servers.names == {"shop", "blog", "ann", "admin", "log", "main"}


@pytest.mark.parametrize("door", DOORS)
async def test_one_session_cookie_under_two_virtual_servers_is_two_sessions(door: Door) -> None:
    """System 1 (h): by host and by path; and the first is as it was."""
    ask = door(engine("shop.example=shop,/admin=admin", "n1", "n2"))
    shop, other = {"Host": "shop.example"}, {"Host": "other.example"}
    first = await ask("/count", shop)
    assert first.json == {"n": 1}
    same = {"Cookie": first.cookie}
    assert (await ask("/count", other | same)).json == {"n": 1}
    assert (await ask("/admin/count", shop | same)).json == {"n": 1}
    assert (await ask("/read", shop | same)).json == {"n": 1}
    assert (await ask("/count", shop | same)).json == {"n": 2}


@pytest.mark.parametrize("kind", ["http", "websocket"])
async def test_a_request_with_two_hosts_is_refused(kind: str) -> None:
    """System 1 (h), G8: the application could go by one of them, and the session by the other."""
    sent: list[Message] = []

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        raise AssertionError("never reached")

    async def send(message: Message) -> None:
        sent.append(message)

    app = SessionMiddleware(application, KEY, engine=engine("a.example=a,b.example=b"))
    headers = [(b"host", b"b.example"), (b"host", b"a.example")]
    scope = {"type": kind, "path": "/", "scheme": "http", "headers": headers}
    await app(scope, receive, send)
    assert (sent[0].get("status"), sent[0].get("code")) in {(400, None), (None, 1002)}


def test_a_request_whose_hosts_the_server_has_joined_is_refused() -> None:
    joined = {"HTTP_HOST": "a.example,x.b.example"}  # so does Django, also on an event loop
    started: list[str] = []

    def application(*_: object) -> Any:
        raise AssertionError("never reached")

    app = WSGISessionMiddleware(application, KEY, engine=engine("*.b.example=b"))
    app({**joined}, lambda status, *_: started.append(status))  # type: ignore[arg-type]
    assert started == ["400 Bad Request"]
    mixed = MixedDoor(Promise(KEY), engine=engine("*.b.example=b"))
    failure = mixed.admit("", Promise(KEY), secure=False, environ=joined).session.failure
    assert failure is not None
    assert refusal(failure).status == 400


@pytest.mark.parametrize("door", DOORS)
async def test_secondary_sessions_are_apart_too(door: Door) -> None:
    ask = door(engine({"shop.example": "shop"}))
    first = await ask("/cart", {"Host": "shop.example"})
    cookie = {"Cookie": first.cookie}
    assert (await ask("/cart", cookie)).json == {"m": 1}
    assert (await ask("/cart", cookie | {"Host": "shop.example"})).json == {"m": 2}


@pytest.mark.parametrize("door", DOORS)
async def test_one_name_is_for_every_host(door: Door) -> None:
    ask = door(engine("shop"))
    cookie = {"Cookie": (await ask("/count", {"Host": "a.example"})).cookie}
    assert (await ask("/count", cookie | {"Host": "b.example"})).json == {"n": 2}


@pytest.mark.parametrize("door", DOORS)
async def test_two_middlewares_with_a_setting_each_are_two_virtual_servers(door: Door) -> None:
    """System 1 (h): by setting."""
    shop, blog = engine("shop"), engine("blog")
    blog.state = shop.state
    first = await door(shop)("/count", {})
    assert (await door(blog)("/count", {"Cookie": first.cookie})).json == {"n": 1}


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ("shop.example", None),
        ("a=b=c", "'b=c' is none"),
        ("shop.example=sh op,/a=", "names of virtual servers"),
        ("shop.example:80=shop", "without a port"),
        ("a.example=a,A.example=b", "one virtual server for 'A.example'"),
        ("a.example=a,b", "HOST=NAME and /PATH=NAME"),
        ("", "must be a name"),
        (7, "must be"),
    ],
)
def test_a_mapping_that_is_none_is_refused_with_the_remedy(given: object, why: str | None) -> None:
    if why is None:
        assert Settings.load({}, virtual_server=given).virtual_server.default == given
        return
    with pytest.raises(InvalidSettings, match=why):
        Settings.load({}, virtual_server=given)


def test_a_mapping_is_shown_as_it_is_written() -> None:
    servers = Settings.load({}, virtual_server=MAPPING).virtual_server
    assert VirtualServers.read(servers.as_mapping().items()) == servers
    assert Settings.load({}, virtual_server=str(servers)).virtual_server == servers
    assert str(Settings.load({}, virtual_server="shop").virtual_server) == "shop"
