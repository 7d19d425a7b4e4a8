"""Flask applications with sessionha's sessions, through Flask's own test client."""

from __future__ import annotations

import logging
import re
from collections.abc import Callable
from contextvars import Context
from datetime import timedelta
from typing import Any

import msgspec
import pytest
from flask import Flask, flash, get_flashed_messages, session
from flask.sessions import SecureCookieSessionInterface
from flask.testing import FlaskClient
from markupsafe import Markup

import sessionha
from flask_sessionha import FlaskSession, FormerCookies, FormerRedis, Session, SessionInterface
from flask_sessionha.configuration import settings_of
from sessionha import InvalidSettings, SessionUnavailable
from sessionha.settings import Settings
from tests.session.fakes import WALL, FakeEngine

KEY = "c0de-8f31-4b7a-99e2-5d06-ab54-7713-e8f9"  # of the tests' applications only


def mine() -> FlaskSession:
    """The session itself."""
    found: Any = session
    current = found._get_current_object()
    assert isinstance(current, FlaskSession)
    return current


def application(**given: Any) -> Flask:
    """An application whose paths each do one thing with the session; its settings in `config`."""
    config = {name: given.pop(name) for name in [*given] if name.isupper()}
    app = Flask("shop", static_folder=None)
    app.config.update({"SECRET_KEY": KEY, "SESSIONHA_STORE": "memory"} | config)
    Session(app, **given)

    def do(path: str) -> Callable[[Callable[[], Any]], Any]:
        return app.get(path, endpoint=path)

    do("/")(lambda: dict(session))
    do("/static")(lambda: "static")
    do("/flashed")(lambda: [repr(message) for message in get_flashed_messages()])
    do("/pop")(lambda: str(session.pop("n")))
    do("/regenerate")(lambda: [app.extensions["sessionha"].regenerate(session)])
    do("/who")(lambda: str(sessionha.current_session()["n"]))
    do("/error")(lambda: session["n"] and 1 // 0)

    @app.get("/count")
    def count() -> str:
        session["n"] = session.get("n", 0) + 1
        return str(session["n"])

    @app.get("/flash")
    def say() -> str:
        flash(Markup("<b>Hello</b>"))
        return ""

    @app.get("/permanent")
    def permanent() -> str:
        session.permanent = True
        return str(session.permanent)

    return app


def cookie(response: Any) -> str:
    """The session's `Set-Cookie` header; empty without one."""
    return next((c for c in response.headers.getlist("set-cookie") if c.startswith("session=")), "")


def bring(one: FlaskClient, other: FlaskClient) -> None:
    """Give the session's cookie of one browser to another one."""
    found = one.get_cookie("session")
    assert found is not None
    other.set_cookie("session", found.value)


@pytest.fixture
def client() -> FlaskClient:
    return application().test_client()


def test_safe_text_stays_safe_from_one_request_to_the_next(client: FlaskClient) -> None:
    """Message flashes would be escaped otherwise."""
    client.get("/flash")
    assert client.get("/flashed").json == ["Markup('<b>Hello</b>')"]
    assert client.get("/flashed").json == []


def test_a_session_that_is_emptied_ends(client: FlaskClient) -> None:
    client.get("/count")
    assert "session=;" in client.get("/pop").headers["set-cookie"]
    assert client.get("/").json == {}


def test_taking_the_last_element_out_takes_nothing_that_came_in_meanwhile() -> None:
    app = application()
    client = app.test_client()
    client.get("/count")
    with client.session_transaction() as slow:
        other = app.test_client()
        bring(client, other)
        with other.session_transaction() as fast:
            fast["cart"] = ["apples"]
        slow.pop("n")
    assert client.get("/").json == {"cart": ["apples"]}


def test_the_flag_of_permanence_alone_begins_no_session(client: FlaskClient) -> None:
    """Many applications set it in every request."""
    assert client.get("/permanent").text == "True"
    assert not client._cookies


def test_permanence_is_kept_and_refreshes_the_cookie(client: FlaskClient) -> None:
    client.get("/count")
    assert "Expires=" in cookie(client.get("/permanent"))
    assert "Expires=" in cookie(client.get("/static"))
    assert client.get("/").json == {"n": 1, "_permanent": True}


def test_a_cookie_that_another_request_replaced_is_not_refreshed() -> None:
    app = application()
    client = app.test_client()
    client.get("/count")
    client.get("/permanent")
    with client.session_transaction() as slow:
        other = app.test_client()
        bring(client, other)
        other.get("/regenerate")
        response = app.response_class()
        with app.test_request_context():
            app.session_interface.save_session(app, slow, response)
        assert cookie(response) == ""


def test_a_thread_may_store_something_when_the_response_has_left(client: FlaskClient) -> None:
    kept: list[Any] = []

    @client.application.get("/keep")
    def keep() -> str:
        kept.extend([mine().sessionha, mine().exchange.wait])
        return ""

    client.get("/count")
    client.get("/keep")
    later, wait = kept
    later["late"] = True
    wait(later.commit())
    assert client.get("/").json == {"n": 1, "late": True}


def test_regenerating_kills_the_old_id(client: FlaskClient) -> None:
    client.get("/count")
    old = client.get_cookie("session")
    assert old is not None
    client.get("/regenerate")
    assert client.get("/").json == {"n": 1}
    client.set_cookie("session", old.value)
    assert client.get("/").json == {}


def test_the_current_session_is_flasks(client: FlaskClient) -> None:
    """And nobody's, when the request is over."""
    context = Context()
    context.run(client.get, "/count")
    assert context.run(client.get, "/who").text == "1"
    with pytest.raises(LookupError):
        context.run(sessionha.current_session)


def test_the_cookie_has_flasks_attributes() -> None:
    app = application(
        SESSION_COOKIE_NAME="__Host-session",
        SESSION_COOKIE_SECURE=True,
        SESSION_COOKIE_SAMESITE="Strict",
        SESSION_COOKIE_PARTITIONED=True,
    )
    (told,) = app.test_client().get("/count").headers.getlist("set-cookie")
    assert told.startswith("__Host-session=")
    assert {"Secure", "HttpOnly", "SameSite=Strict", "Partitioned"} <= {*told.split("; ")}


def test_the_cookie_is_secure_where_the_request_was(client: FlaskClient) -> None:
    assert "Secure" in client.get("/count", base_url="https://localhost").headers["set-cookie"]


@pytest.mark.parametrize(
    ("config", "remedy"),
    [
        ({"SESSION_COOKIE_NAME": "__Host-s"}, "`SESSION_COOKIE_SECURE` = True"),
        (
            {
                "SESSION_COOKIE_NAME": "__Host-s",
                "SESSION_COOKIE_SECURE": True,
                "APPLICATION_ROOT": "/shop",
            },
            "`SESSION_COOKIE_PATH` /",
        ),
        ({"SESSIONHA_STOR": "memory"}, "store"),
        ({"SESSIONHA_LISTEN": "127.0.0.1:7946"}, "secret"),
    ],
)
def test_mistakes_stop_the_application_when_it_is_made(config: Any, remedy: str) -> None:
    with pytest.raises(InvalidSettings, match=re.escape(remedy)):
        application(**config)


def test_settings_of_flask_session_are_accepted_and_the_ignored_ones_named(
    caplog: pytest.LogCaptureFixture,
) -> None:
    with caplog.at_level(logging.WARNING, "sessionha.flask"):
        app = application(SESSION_TYPE="redis", SESSION_KEY_PREFIX="s:", SESSION_PERMANENT=True)
    assert "SESSION_KEY_PREFIX, SESSION_TYPE: settings of Flask-Session" in caplog.text
    assert "Expires=" in cookie(app.test_client().get("/count"))


def test_idle_sessions_end_after_flasks_lifetime_unless_the_setting_was_made_on_purpose() -> None:
    for given, seconds in (({}, 10_800), ({"SESSIONHA_IDLE_TIMEOUT": "5min"}, 300)):
        lifetime = timedelta(seconds=10_800)
        engine = FakeEngine(settings=Settings.load(None, store="memory", **settings_of(given)))
        app = application(PERMANENT_SESSION_LIFETIME=lifetime, engine=engine, **given)
        value = cookie(app.test_client().get("/count"))
        assert int(value.split(".")[1]) == WALL + seconds


def test_after_an_error_the_session_is_saved_as_flask_does() -> None:
    app = application()
    app.config["PROPAGATE_EXCEPTIONS"] = False
    client = app.test_client()
    client.get("/count")
    assert client.get("/error").status_code == 500
    assert client.get("/").json == {"n": 1}


def test_what_cannot_be_stored_is_named(client: FlaskClient) -> None:
    app = client.application
    app.testing = True
    app.get("/odd", endpoint="odd")(lambda: [session.update(odd=object())])
    with pytest.raises(TypeError, match=r"session\['odd'\]"):
        client.get("/odd")


def test_a_session_that_cannot_be_had_or_committed_is_answered_with_503() -> None:
    engine = FakeEngine()
    app = application(engine=engine)
    client = app.test_client()
    client.get("/count")
    for page, status in (("/count", 503), ("/static", 200)):
        engine.state.failure = SessionUnavailable("away")
        engine.state.away |= engine.state.groups.keys()
        response = client.get(page)
        assert response.status_code == status
        assert ("retry-after" in response.headers) == (status == 503)
    engine.state.failure = None
    assert client.get("/count").text == "2"
    engine.state.failure = SessionUnavailable("no copies")
    refused = client.get("/count")
    assert (refused.status_code, cookie(refused)) == (503, "")
    assert "Retry-After" in refused.headers
    engine.state.failure = None
    assert client.get("/").json == {"n": 2}


def test_requests_can_be_opted_out() -> None:
    client = application(exclude=["/count"]).test_client()
    assert [client.get("/count").text, client.get("/count").text] == ["1", "1"]
    assert not client._cookies


def test_health_is_told_where_it_is_asked_for() -> None:
    client = application(SESSIONHA_HEALTH_PATH="/-/").test_client()
    client.get("/count")
    assert client.get("/-/healthz").text == "ok\n"
    assert client.get("/-/readyz").status_code == 200


@pytest.mark.parametrize("exclude", [(), ["/healthz", "/readyz"], [sessionha.bots]])
def test_probes_start_the_engine_only_to_say_that_it_is_ready(exclude: Any) -> None:
    engine = FakeEngine(settings=Settings.load({}, store="memory", health_path="/"))
    client = application(engine=engine, exclude=exclude).test_client()
    probe = {"User-Agent": "kube-probe/1.31"}
    assert client.get("/healthz", headers=probe).status_code == 200
    assert not engine.running
    assert client.get("/readyz", headers=probe).status_code == 200
    assert engine.running


def test_an_engine_whose_loop_has_died_fails_both_probes() -> None:
    looped = Settings.load({}, concurrency="serialize", health_path="/")
    app = application(engine=FakeEngine(settings=looped))
    client = app.test_client()
    assert client.get("/readyz").status_code == 200
    host: Any = app.extensions["sessionha"].doors.known(app).start()
    host._loop.call_soon_threadsafe(host._loop.stop)
    host._thread.join()
    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [503, 503]


def test_without_a_secret_key_flask_complains_at_the_first_use() -> None:
    client = application(SECRET_KEY=None).test_client()
    client.application.testing = True
    assert client.get("/static").text == "static"
    with pytest.raises(RuntimeError, match="no secret key"):
        client.get("/count")


def test_one_interface_serves_several_applications_apart() -> None:
    interface = SessionInterface(store="memory")
    first, second = application(), application()
    first.session_interface = second.session_interface = interface
    one, two = first.test_client(), second.test_client()
    one.get("/count")
    bring(one, two)
    assert (one.get("/").json, two.get("/").json) == ({"n": 1}, {})


# --- sessions of before ---


class FakeRedis:
    """What the client of Flask-Session is asked for."""

    def __init__(self, rows: dict[str, bytes]) -> None:
        self.rows = rows
        self.times: dict[str, int] = {}

    def get(self, key: str) -> bytes | None:
        return self.rows.get(key)

    def delete(self, key: str) -> None:
        del self.rows[key]

    def ttl(self, key: str) -> int:
        return self.times.get(key, -1)

    def expire(self, key: str, seconds: int) -> None:
        assert key in self.rows
        assert key not in self.times, "it is given more time"
        self.times[key] = seconds


def _old_cookie(**data: object) -> str:
    app = Flask("shop")
    app.secret_key = KEY
    serializer = SecureCookieSessionInterface().get_signing_serializer(app)
    assert serializer is not None
    return str(serializer.dumps(data or {"n": 6}))


def test_flasks_own_sessions_are_taken_over() -> None:
    client = application(former=[FormerCookies()]).test_client()
    client.set_cookie("session", _old_cookie())
    assert client.get("/count").text == "7"
    assert client.get("/count").text == "8"


@pytest.mark.parametrize("encode", [msgspec.msgpack.encode, msgspec.json.encode])
def test_flask_sessions_sessions_are_taken_over_and_end_soon(
    encode: Callable[[Any], bytes],
) -> None:
    redis = FakeRedis({"session:old": encode({"n": 6, "_permanent": True})})
    client = application(former=[FormerRedis(redis)]).test_client()
    client.set_cookie("session", "old")
    assert client.get("/").json == {"n": 6, "_permanent": True}
    assert redis.times == {"session:old": 60}
    assert client.get("/count").text == "7"
    client.set_cookie("session", "old")  # that of a request which was under way meanwhile
    assert client.get("/").json == {"n": 6, "_permanent": True}


@pytest.mark.parametrize("page", ["/swap", "/regenerate"])
def test_what_may_be_a_log_out_forgets_the_session_of_before_at_once(page: str) -> None:
    redis = FakeRedis({"session:old": msgspec.msgpack.encode({"n": 6})})
    app = application(former=[FormerRedis(redis)])
    app.get("/swap", endpoint="swap")(lambda: [session.pop("n"), session.update(cart=1)])
    client = app.test_client()
    client.set_cookie("session", "old")
    client.get(page)
    assert not redis.rows
    assert client.get_cookie("session") is not None


@pytest.mark.parametrize("page", ["/", "/pop"])
def test_a_session_of_before_has_the_subject_that_its_data_tell(page: str) -> None:
    redis = FakeRedis({"session:old": msgspec.msgpack.encode({"n": 6})})
    app = application(former=[FormerRedis(redis)], subject_of=lambda found: f"user:{found['n']}")
    app.get("/subject", endpoint="subject")(lambda: str(mine().subject))
    client = app.test_client()
    client.set_cookie("session", "old")
    client.get(page)
    assert client.get("/subject").text == ("user:6" if page == "/" else "None")
    assert (client.get_cookie("session") is None) == (page == "/pop")


LOG_OUTS: dict[str, Callable[[], object]] = {
    "clear": lambda: mine().clear(),
    "pop": lambda: session.pop("n"),
    "destroy": lambda: mine().destroy(),
}


@pytest.mark.parametrize("how", LOG_OUTS)
@pytest.mark.parametrize("kind", ["cookies", "redis"])
def test_a_log_out_may_be_the_first_request_after_the_change(kind: str, how: str) -> None:
    redis = FakeRedis({"session:old": msgspec.msgpack.encode({"n": 6, "_permanent": True})})
    app = application(former=[FormerCookies() if kind == "cookies" else FormerRedis(redis)])
    app.get("/out", endpoint="out")(lambda: str(bool(LOG_OUTS[how]())))
    client = app.test_client()
    client.set_cookie("session", _old_cookie() if kind == "cookies" else "old")
    client.get("/out")
    assert client.get_cookie("session") is None
    assert client.get("/").json == {}
    assert (kind == "cookies") == bool(redis.rows)


def test_a_request_that_is_opted_out_leaves_the_session_of_before_alone() -> None:
    redis = FakeRedis({"session:old": msgspec.msgpack.encode({"n": 6})})
    client = application(former=[FormerRedis(redis)], exclude=["/static"]).test_client()
    client.set_cookie("session", "old")
    client.get("/static")
    assert client.get("/").json == {"n": 6}


def test_pickled_sessions_are_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    redis = FakeRedis({"session:old": b"\x80\x04}\x94\x8c\x01n\x94K\x06s."})
    client = application(former=[FormerRedis(redis)]).test_client()
    client.set_cookie("session", "old")
    assert client.get("/").json == {}
    assert "neither msgpack nor JSON" in caplog.text


# --- Flask-Login ---


@pytest.fixture
def log_ins() -> Flask:
    flask_login = pytest.importorskip("flask_login")
    app = application()
    manager = flask_login.LoginManager(app)

    class User(flask_login.UserMixin):  # type: ignore[misc, name-defined]
        id = "ada"

    manager.user_loader(lambda _: User())
    app.get("/log-in", endpoint="in")(lambda: str(flask_login.login_user(User())))
    app.get("/remember", endpoint="remember")(
        lambda: str(flask_login.login_user(User(), remember=True))
    )
    app.get("/user", endpoint="user")(lambda: str(flask_login.current_user.get_id()))
    app.get("/log-out", endpoint="out")(lambda: str(flask_login.logout_user()))
    app.get("/subject", endpoint="subject")(lambda: str(mine().subject))
    app.get("/devices", endpoint="devices")(lambda: str(len(mine().siblings().sessions)))
    return app


def test_a_log_in_renews_the_id_and_says_whose_session_it_is(log_ins: Flask) -> None:
    client = log_ins.test_client()
    client.get("/count")
    before = client.get_cookie("session")
    client.get("/log-in")
    assert client.get_cookie("session") != before
    assert client.get("/subject").text == "ada"
    assert client.get("/devices").text == "1"
    client.get("/log-out")
    assert client.get("/subject").text == "None"
    assert client.get("/").json == {"n": 1}


def test_a_remembered_log_in_renews_the_id_and_says_whose_session_it_is(log_ins: Flask) -> None:
    """So that nobody can plant a session that it then logs in."""
    victim, attacker = log_ins.test_client(), log_ins.test_client()
    victim.get("/remember")
    attacker.get("/count")
    bring(attacker, victim)
    assert victim.get("/user").text == "ada"
    assert victim.get("/subject").text == "ada"
    assert attacker.get("/user").text == "None"


def test_a_session_of_before_belongs_to_its_user_of_flask_login(log_ins: Flask) -> None:
    Session(log_ins, former=[FormerCookies()])
    log_ins.get("/everywhere", endpoint="everywhere")(lambda: str(mine().revoke_all().ended))
    client, elsewhere = log_ins.test_client(), log_ins.test_client()
    client.set_cookie("session", _old_cookie(_user_id="ada", _fresh=True))
    assert client.get("/user").text == "ada"
    elsewhere.get("/log-in")
    elsewhere.get("/everywhere")
    assert client.get("/user").text == "None"
