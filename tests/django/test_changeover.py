"""The change from another engine: what becomes of the old session, whatever the request does."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import pytest
from django.contrib.auth.models import User
from django.contrib.sessions.exceptions import SessionInterrupted
from django.http import HttpRequest, HttpResponse
from django.test import AsyncClient, Client, RequestFactory, override_settings

from django_sessionha import configuration
from django_sessionha.middleware import SessionMiddleware
from django_sessionha.sessions import SessionStore
from sessionha import MixedDoor, SessionUnavailable
from tests.django.test_requests import Visitor
from tests.session.fakes import FakeEngine

OLD = "django.contrib.sessions.backends.cache"


def stored(key: str | None = None) -> Any:
    """A session of the old engine."""
    return import_module(OLD).SessionStore(key)


@pytest.fixture
def key() -> Iterator[str]:
    """That of a session of the old engine."""
    with override_settings(SESSIONHA={"store": "memory", "migrate_from": OLD}):
        store = stored()
        store["user"] = "ada"
        store.save()
        yield store.session_key


def browser(key: str, kind: type[Client] | type[AsyncClient] = Client) -> Visitor:
    """One that brings this key."""
    visitor = Visitor(kind)
    visitor.client.cookies["sessionid"] = key
    return visitor


@pytest.fixture(params=[Client, AsyncClient])
def visitor(request: pytest.FixtureRequest, key: str) -> Visitor:
    return browser(key, request.param)


@pytest.mark.parametrize("what", ["error", "raise", "object"])
def test_a_response_that_is_an_error_leaves_the_old_session(
    visitor: Visitor, key: str, what: str
) -> None:
    answer = visitor.ask(what)
    assert (answer.status_code, "sessionid" in answer.cookies) == (500, False)
    assert stored(key).get_expiry_age() > 60
    assert visitor.get("show") == {"user": "'ada'"}


def test_a_session_that_cannot_be_stored_leaves_the_old_one(visitor: Visitor, key: str) -> None:
    engine = FakeEngine()
    engine.state.failure = SessionUnavailable()
    configuration._door = MixedDoor(configuration.promise(), engine=engine)
    assert visitor.ask("show").status_code == 503
    assert stored(key).get_expiry_age() > 60


def test_a_request_with_the_old_cookie_joins_the_new_session(visitor: Visitor, key: str) -> None:
    visitor.get("put?a=1")
    late = browser(key)
    assert late.get("show") == {"a": "'1'", "user": "'ada'"}
    assert late.client.cookies["sessionid"].value == visitor.client.cookies["sessionid"].value


def test_a_log_out_ends_the_old_session_too(visitor: Visitor, key: str) -> None:
    visitor.get("show")
    late = browser(key)
    late.get("show")
    visitor.get("logout")
    assert browser(key).get("show") == {}
    assert late.get("show") == {}


def test_a_log_out_as_the_first_request_does(visitor: Visitor, key: str) -> None:
    visitor.get("logout")
    assert not visitor.client.cookies["sessionid"].value
    assert browser(key).get("show") == {}


@pytest.mark.usefixtures("database")
def test_a_log_in_leaves_nothing_to_the_old_cookie(key: str) -> None:
    """Somebody else may have given it to the browser."""
    User.objects.create_user("ada", password="lovelace")
    visitor = browser(key)
    visitor.get("login?user=ada")
    assert "_auth_user_id" in visitor.get("show")
    assert browser(key).get("show") == {}


def test_a_log_out_is_not_undone_by_a_slower_request(key: str) -> None:
    def slow(request: HttpRequest) -> HttpResponse:
        request.session["slow"] = True
        browser(key).get("logout")
        return HttpResponse()

    request = RequestFactory().get("/")
    request.COOKIES["sessionid"] = key
    with pytest.raises(SessionInterrupted):
        SessionMiddleware(slow)(request)
    assert not SessionStore().exists(request.session.session_key)
