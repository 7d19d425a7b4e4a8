"""Requests and their sessions, by Django's test clients: through threads, and on an event loop."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextvars import Context
from typing import Any

import pytest
from asgiref.sync import async_to_sync
from django.contrib.sessions.serializers import JSONSerializer
from django.test import AsyncClient, Client, override_settings

import sessionha
from django_sessionha import configuration
from django_sessionha.sessions import SessionStore
from sessionha import MixedDoor, SessionUnavailable
from tests.django.settings import SETTINGS
from tests.session.fakes import FakeEngine

Ask = Callable[..., Any]
KEY = "e41f-77b0-4c3d-9a26-58dd-2b9c-0e14-a6f7"


class Visitor:
    """A browser, at the views of one kind."""

    def __init__(self, kind: type[Client] | type[AsyncClient]) -> None:
        self.client: Any = kind(raise_request_exception=False)
        self._prefix = "/a/" if kind is AsyncClient else "/"

    def ask(self, what: str, **options: Any) -> Any:
        """One request."""
        answer = self.client.get(self._prefix + what, **options)
        return async_to_sync(_awaited)(answer) if isinstance(answer, Awaitable) else answer

    def get(self, what: str, **options: Any) -> Any:
        """What it shows."""
        answer = self.ask(what, **options)
        assert answer.status_code == 200, answer.content
        return answer.json()


async def _awaited(answer: Awaitable[Any]) -> Any:
    return await answer


@pytest.fixture(params=[Client, AsyncClient])
def visitor(request: pytest.FixtureRequest) -> Visitor:
    return Visitor(request.param)


def cookie(answer: Any, name: str = "sessionid") -> Any:
    """A cookie that a response sets."""
    return answer.cookies[name]


def test_what_is_changed_inside_a_value_is_stored(visitor: Visitor) -> None:
    visitor.get("append")
    visitor.get("append")
    assert visitor.get("show") == {"items": "[1, 1]"}


def test_a_read_sets_no_cookie_and_varies(visitor: Visitor) -> None:
    answer = visitor.ask("show")
    assert (dict(answer.cookies), answer.headers["vary"]) == ({}, "Cookie")
    visitor.ask("put?a=1")
    answer = visitor.ask("show")
    assert (dict(answer.cookies), answer.headers["vary"]) == ({}, "Cookie")


def test_a_request_that_does_not_touch_it_is_left_alone(visitor: Visitor) -> None:
    visitor.ask("put?a=1")
    answer = visitor.ask("static")
    assert (dict(answer.cookies), "vary" in answer.headers) == ({}, False)


def test_the_cookie_is_the_session_key(visitor: Visitor) -> None:
    """As the test client and Channels believe."""
    answer = visitor.ask("put?a=1")
    store = SessionStore(cookie(answer).value)
    assert (store["a"], store.session_key) == ("1", cookie(answer).value)


@pytest.mark.parametrize("what", ["error", "raise"])
def test_a_response_that_is_an_error_of_the_server_stores_nothing(
    visitor: Visitor, what: str
) -> None:
    visitor.get("put?a=1")
    assert visitor.ask(what).status_code == 500
    assert visitor.get("show") == {"a": "'1'"}


def test_what_cannot_be_stored_is_named(visitor: Visitor, caplog: pytest.LogCaptureFixture) -> None:
    visitor.get("put?a=1")
    assert visitor.ask("object").status_code == 500
    assert "session['odd'] cannot be stored, because of its object" in caplog.text
    assert visitor.get("show") == {"a": "'1'"}


def test_a_session_that_was_cleared_stays_and_is_empty(visitor: Visitor) -> None:
    key = cookie(visitor.ask("put?a=1")).value
    answer = visitor.ask("clear")
    assert (answer.json(), cookie(answer).value) == ({}, key)
    assert SessionStore().exists(key)


def test_safe_text_stays_safe(visitor: Visitor) -> None:
    visitor.get("html")
    key = visitor.client.cookies["sessionid"].value
    assert hasattr(SessionStore(key)["html"], "__html__")


def test_a_streamed_body_may_change_the_session() -> None:
    visitor = Visitor(Client)
    visitor.get("put?a=1")
    assert b"".join(visitor.ask("stream").streaming_content) == b"one two"
    assert visitor.get("show") == {"a": "'1'", "late": "True"}


def test_messages_live_in_the_session(visitor: Visitor) -> None:
    with override_settings(
        MESSAGE_STORAGE="django.contrib.messages.storage.session.SessionStorage"
    ):
        visitor.get("message")
        assert visitor.get("messages") == {"told": ["hello"]}
        assert visitor.get("messages") == {"told": []}


def test_csrf_tokens_live_in_the_session() -> None:
    middleware = "django.middleware.csrf.CsrfViewMiddleware"

    with override_settings(
        CSRF_USE_SESSIONS=True, MIDDLEWARE=[*SETTINGS["MIDDLEWARE"], middleware]
    ):
        client = Client(enforce_csrf_checks=True)
        token = client.get("/token").json()["token"]
        assert client.post("/show").status_code == 403
        assert client.post("/show", headers={"x-csrftoken": token}).status_code == 200


# --- cookies ---


def test_lifetimes_are_those_of_the_cookie(visitor: Visitor) -> None:
    assert cookie(visitor.ask("put?a=1"))["max-age"] == 14 * 24 * 3600
    assert cookie(visitor.ask("minute"))["max-age"] == 60
    assert SessionStore(_key(visitor)).get_expiry_age() == 60
    assert _stored(visitor).idle_timeout == 60
    assert cookie(visitor.ask("until"))["max-age"] in (3599, 3600)
    assert cookie(visitor.ask("browser"))["max-age"] == ""
    assert _stored(visitor).idle_timeout == 14 * 24 * 3600


def _key(visitor: Visitor) -> str:
    key: str = visitor.client.cookies["sessionid"].value
    return key


def _stored(visitor: Visitor) -> Any:
    store = SessionStore(_key(visitor))
    store.load()
    assert store.exchange is not None
    return store.exchange.session


@override_settings(SESSION_EXPIRE_AT_BROWSER_CLOSE=True)
def test_cookies_may_end_with_the_browser(visitor: Visitor) -> None:
    assert cookie(visitor.ask("put?a=1"))["max-age"] == ""


@override_settings(SESSION_SAVE_EVERY_REQUEST=True)
def test_every_request_may_renew_the_cookie(visitor: Visitor) -> None:
    visitor.ask("put?a=1")
    assert cookie(visitor.ask("static"))["max-age"] == 14 * 24 * 3600


@override_settings(SESSION_SAVE_EVERY_REQUEST=True)
def test_a_session_that_is_over_is_not_begun_anew(visitor: Visitor) -> None:
    """A crawler with an old cookie leaves nothing behind."""
    visitor.client.cookies["sessionid"] = "a-key-of-somebody-elses-making"
    answer = visitor.ask("static")
    assert cookie(answer)["max-age"] == 0


@override_settings(
    SESSION_COOKIE_NAME="__Secure-id",
    SESSION_COOKIE_SECURE=True,
    SESSION_COOKIE_SAMESITE="None",
    SESSION_COOKIE_DOMAIN="example.org",
    SESSION_COOKIE_PATH="/a",
)
def test_the_cookies_attributes_are_the_settings(visitor: Visitor) -> None:
    found = cookie(visitor.ask("put?a=1"), "__Secure-id")
    assert (found["secure"], found["samesite"]) == (True, "None")
    assert (found["domain"], found["path"]) == ("example.org", "/a")


def test_over_https_the_cookie_is_secure(visitor: Visitor) -> None:
    assert cookie(visitor.ask("put?a=1", secure=True))["secure"] is True
    assert cookie(visitor.ask("put?a=2"))["secure"] == ""


@override_settings(SESSIONHA={"store": "memory", "PARTITIONED": True}, SESSION_COOKIE_SECURE=True)
def test_cookies_may_be_partitioned(visitor: Visitor) -> None:
    assert "Partitioned" in str(visitor.ask("put?a=1").cookies)
    ended = str(visitor.ask("flush").cookies)
    assert all(word in ended for word in ("Max-Age=0", "Partitioned", "Secure", "SameSite"))


def test_a_key_that_was_replaced_still_verifies(visitor: Visitor) -> None:
    visitor.ask("put?a=1")
    with override_settings(SECRET_KEY=KEY):
        assert visitor.get("show") == {}
    visitor.ask("put?a=1")
    with override_settings(
        SECRET_KEY=KEY, SECRET_KEY_FALLBACKS=["d7a2-40ce-4b19-8f55-93e1-c0ab-6e72-1f88"]
    ):
        assert visitor.get("show") == {"a": "'1'"}


def test_the_route_cookie_follows_the_session_cookie(visitor: Visitor) -> None:
    _with(FakeEngine(("n1", "n2")))
    answer = visitor.ask("put?a=1")
    route = cookie(answer, "hsr")
    assert route.value.startswith("1.n1~n2.")
    assert (route["httponly"], route["samesite"], route["max-age"]) == (True, "Lax", 1209600)
    assert "hsr" not in visitor.ask("show").cookies


def test_the_other_sessions_of_a_client_have_cookies_of_their_own(visitor: Visitor) -> None:
    answer = visitor.ask("cart")
    assert list(answer.cookies) == ["sessionid-cart"]
    assert answer.headers["vary"] == "Cookie"
    assert visitor.get("cart") == {"n": 2}


def test_a_view_that_makes_another_session_keeps_the_secondary_ones(visitor: Visitor) -> None:
    old = cookie(visitor.ask("put?a=1")).value
    context = Context()
    answer = context.run(visitor.ask, "another")
    with pytest.raises(LookupError):
        context.run(sessionha.current_session)  # both are left
    assert cookie(answer).value != old
    assert visitor.get("cart") == {"n": 2}
    assert visitor.get("show") == {"a": "'1'", "b": "2"}
    assert dict(SessionStore(old).items()) == {"a": "1"}


# --- servers that are not there ---


def _with(engine: FakeEngine) -> FakeEngine:
    configuration._door = MixedDoor(configuration.promise(), engine=engine)
    return engine


def _away(visitor: Visitor) -> FakeEngine:
    """The visitor's session is on a server that does not answer."""
    engine = _with(FakeEngine(("n1", "n2")))
    visitor.get("put?a=1")
    engine.state.away.update(engine.state.groups)
    engine.state.failure = SessionUnavailable("nobody answers")
    return engine


def test_a_session_that_cannot_be_had_is_answered_with_503(visitor: Visitor) -> None:
    engine = _away(visitor)
    answer = visitor.ask("show")
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "1")
    assert answer.headers["sessionha-retry"] == "elsewhere"
    assert visitor.ask("static").status_code == 200
    engine.state.failure = None
    assert visitor.get("show") == {"a": "'1'"}


def test_a_change_that_cannot_be_stored_is_answered_with_503(visitor: Visitor) -> None:
    engine = _with(FakeEngine(("n1", "n2")))
    visitor.get("put?a=1")
    engine.state.failure = SessionUnavailable("nobody answers")
    answer = visitor.ask("put?a=2")
    assert (answer.status_code, "sessionid" in answer.cookies) == (503, False)
    engine.state.failure = None
    assert visitor.get("show") == {"a": "'1'"}


# --- settings of sessionha ---


@override_settings(SESSIONHA={"store": "memory", "exclude": ["/put", "/a/put"]})
def test_requests_may_be_opted_out(visitor: Visitor) -> None:
    answer = visitor.ask("put?a=1")
    assert (answer.json(), dict(answer.cookies)) == ({"a": "'1'"}, {})


@override_settings(SESSIONHA={"store": "memory", "exclude": ["/renew", "/a/renew"]})
def test_what_an_opted_out_request_begins_is_not_stored(visitor: Visitor) -> None:
    """Neither a log-in, which renews the key, nor `save` makes a session that nobody can find."""
    answer = visitor.ask("renew")
    assert (answer.json(), dict(answer.cookies)) == ({"renewed": "True"}, {})
    assert not configuration.door().running


@pytest.mark.parametrize("concurrency", ["merge", "serialize"])
def test_views_ask_for_the_other_sessions_of_their_user(visitor: Visitor, concurrency: str) -> None:
    """Also where the engine has an event loop of its own."""
    with override_settings(SESSIONHA={"store": "memory", "concurrency": concurrency}):
        here, elsewhere = SessionStore(), SessionStore()
        for store in (here, elsewhere):
            store.subject = "user:1"
            store.save()
        visitor.client.cookies["sessionid"] = here.session_key
        assert visitor.get("devices") == {"sessions": 2}
        configuration.door().start().stop()


def test_what_is_not_looked_for_completes_nothing() -> None:
    async def work() -> None: ...

    with pytest.raises(LookupError, match="was not looked for so far"):
        SessionStore().complete(work())


@override_settings(SESSIONHA={"store": "memory", "health_path": "/"})
def test_health_is_told(visitor: Visitor) -> None:
    assert visitor.client.cookies is not None
    assert Client().get("/healthz").content == b"ok\n"


class Shouting(JSONSerializer):
    """A serializer of the project's own."""

    def dumps(self, obj: Any) -> bytes:
        return super().dumps(obj).upper()


@override_settings(SESSION_SERIALIZER="tests.django.test_requests.Shouting")
def test_a_serializer_of_the_project_is_used(visitor: Visitor) -> None:
    visitor.get("put?a=loud")
    assert visitor.get("show") == {"a": "'LOUD'"}
    visitor.get("append")
    visitor.get("append")
    assert visitor.get("show") == {"a": "'LOUD'", "items": "[1, 1]"}


def test_the_id_of_another_session_is_no_session_key(visitor: Visitor) -> None:
    """What is in the cookie of a secondary session does not open it as the main one."""
    value = cookie(visitor.ask("cart"), "sessionid-cart").value
    for piece in (value, value.split(".")[0]):
        visitor.client.cookies.clear()
        visitor.client.cookies["sessionid"] = piece
        assert visitor.get("show") == {}
        assert not SessionStore().exists(piece)


@pytest.mark.parametrize("place", ["/renew,/a/renew", "testserver"])
def test_a_new_session_may_be_renewed_in_any_virtual_server(visitor: Visitor, place: str) -> None:
    servers = ",".join(f"{each}=members" for each in place.split(","))
    with override_settings(SESSIONHA={"store": "memory", "virtual_server": f"{servers},*=shop"}):
        assert visitor.get("renew") == {"renewed": "True"}
        assert visitor.get("renew") == {"renewed": "True"}
