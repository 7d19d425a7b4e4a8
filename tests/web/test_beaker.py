"""Applications of Beaker: its middleware's options and its session's words."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import beaker.middleware
import httpx
import pytest

from sessionha.beaker import BeakerSession, SessionMiddleware
from sessionha.errors import InvalidSettings
from sessionha.keys import new_secret

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

KEY = new_secret()


def shop(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    """An application as it is written for Beaker."""
    session = environ["beaker.session"]
    match environ["PATH_INFO"].strip("/"):
        case "count":
            session["n"] = session.get("n", 0) + 1
            session.save()
        case "append":
            session.setdefault("cart", []).append("tea")
            session.save()
        case "log-in":
            session["user"] = "ada"
            session.save()
            session.regenerate_id()
        case "invalidate":
            session.invalidate()
            session["after"] = True
            session.save()
        case "delete":
            session.delete()
        case "revert":
            session["n"] = -1
            session.revert()
    shown = {name: session[name] for name in session if not name.startswith("_")}
    told = {"session": shown, "new": session.is_new, "has n": session.has_key("n")}
    start_response("200 OK", [("Content-Type", "application/json")])
    return [json.dumps(told).encode()]


def client(app: Any) -> httpx.Client:
    return httpx.Client(transport=httpx.WSGITransport(app), base_url="http://shop.example")


def ours(config: dict[str, Any] | None = None, **options: Any) -> httpx.Client:
    given = {"sessionha.store": "memory", "session.secret": KEY, **(config or {})}
    return client(SessionMiddleware(shop, given, **options))


def theirs() -> httpx.Client:
    return client(beaker.middleware.SessionMiddleware(shop, {"session.type": "memory"}))


@pytest.mark.parametrize("made", [ours, theirs])
def test_what_an_application_sees_is_the_same_in_both(made: Any) -> None:
    """As far as Beaker does what it should; tests of its defects are elsewhere."""
    with made() as browser:
        assert browser.get("/").json() == {"session": {}, "new": True, "has n": False}
        for n in (1, 2):
            assert browser.get("/count").json()["session"] == {"n": n}
        assert browser.get("/").json() == {"session": {"n": 2}, "new": False, "has n": True}
        browser.get("/append")
        assert browser.get("/append").json()["session"]["cart"] == ["tea", "tea"]
        browser.get("/log-in")
        assert browser.get("/").json()["session"]["user"] == "ada"
        browser.get("/invalidate")
        assert browser.get("/").json()["session"] == {"after": True}
        browser.get("/delete")
        assert browser.get("/").json()["session"] == {}


def test_after_a_regeneration_the_old_id_is_dead() -> None:
    """Peers' defect 5."""
    with ours() as browser:
        browser.get("/count")
        old = browser.cookies["beaker.session.id"]
        browser.get("/log-in")
        assert browser.cookies["beaker.session.id"] != old
        browser.cookies.clear()
        browser.cookies.set("beaker.session.id", old)
        assert browser.get("/").json()["session"] == {}


def test_a_change_that_is_reverted_is_not_kept() -> None:
    with ours() as browser:
        browser.get("/count")
        browser.get("/revert")
        assert browser.get("/").json()["session"] == {"n": 1}


def test_it_tells_id_and_times() -> None:
    told: list[Any] = []

    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        session = environ["beaker.session"]
        session["n"] = 1
        told.append((session.id, session.created, session.last_accessed))
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b""]

    door = SessionMiddleware(app, {"session.secret": KEY, "sessionha.store": "memory"})
    with client(door) as browser:
        browser.get("/")
        browser.get("/")
    (no_id, created, none), (session_id, known, used) = told
    assert (no_id, none) == (None, None)
    assert len(session_id) == 56
    assert abs(created - known) < 60
    assert abs(used - known) < 60


@pytest.mark.parametrize(
    ("options", "age", "idle"),
    [
        ({}, None, 14 * 86_400),
        ({"session.timeout": "3600"}, None, 3600),
        ({"session.cookie_expires": True, "session.timeout": 60}, None, 60),
        ({"session.cookie_expires": "true"}, None, 14 * 86_400),
        ({"session.cookie_expires": 600}, 600, 600),
        ({"session.cookie_expires": "600"}, 600, 600),
        ({"session.cookie_expires": timedelta(hours=1), "session.timeout": 60}, 60, 60),
        ({"session.cookie_expires": False}, 400 * 86_400, 400 * 86_400),
    ],
)
def test_its_times_mean_what_they_meant(
    options: dict[str, Any], age: int | None, idle: int
) -> None:
    door = SessionMiddleware(shop, {"session.secret": KEY, **options}).door
    assert (door.terms.max_age, door.terms.idle_timeout) == (age, idle * 1000)
    assert door.terms.lifetime == 0


def test_its_cookie_has_the_attributes_that_it_had() -> None:
    config = {
        "beaker.session.key": "sid", "beaker.session.secure": "true",
        "beaker.session.cookie_domain": "shop.example", "beaker.session.samesite": "Strict",
    }  # fmt: skip
    with ours(config) as browser:
        words = browser.get("/count").headers["set-cookie"].split("; ")
    assert words[0].startswith("sid=")
    assert {"samesite=strict", "secure", "domain=shop.example", "httponly"} <= {*words}


def test_options_are_keywords_too_and_the_environ_key_is_free() -> None:
    def app(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
        assert isinstance(environ["my.session"], BeakerSession)
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [repr(environ["my.session"]).encode()]

    config = {"sessionha.store": "memory"}
    door = SessionMiddleware(app, config, environ_key="my.session", key="sid", secret=KEY)
    with client(door) as browser:
        assert browser.get("/").text == "<BeakerSession: <Session: new>>"


def test_options_without_a_meaning_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    config = {"session.type": "file", "session.data_dir": "/var/x", "session.auto": True}
    with caplog.at_level(logging.WARNING, "sessionha.web"), ours(config) as browser:
        browser.get("/count")
    (message,) = [text for text in caplog.messages if "Beaker" in text]
    assert "data_dir, type;" in message


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"session.secret": ""}, "`session.secret` is missing"),
        ({"session.samesite": "None of it"}, "same_site"),
        ({"session.cookie_expires": datetime(2030, 1, 1, tzinfo=UTC)}, "cookie_expires"),
        ({"sessionha.sotre": "memory"}, "did you mean `store`"),
    ],
)
def test_mistakes_are_told_at_the_start(config: dict[str, Any], words: str) -> None:
    with pytest.raises(InvalidSettings, match=words):
        ours(config)
