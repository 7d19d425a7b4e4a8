"""Whose sessions are whose: log-in, the command, the admin page; the change from other engines."""

from __future__ import annotations

import subprocess
import sys
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from django.contrib.auth.models import Permission, User
from django.core.management import CommandError, call_command
from django.test import AsyncClient, Client, override_settings

from django_sessionha import configuration
from django_sessionha.sessions import SessionStore
from sessionha.state.base import LoggedOut, Siblings

pytestmark = pytest.mark.usefixtures("database")

PAGE = "/admin/django_sessionha/usersession/"


@pytest.fixture
def ada() -> User:
    return User.objects.create_user("ada", password="lovelace")


def logged_in(user: User) -> Client:
    """A browser in which somebody has logged in."""
    client = Client()
    client.get("/put?before=1")
    assert client.get(f"/login?user={user.username}").status_code == 200
    return client


def command(*words: str) -> str:
    """What `manage.py usersessions` prints."""
    out = StringIO()
    call_command("usersessions", *words, stdout=out)
    return out.getvalue()


def test_a_log_in_renews_the_key_and_says_whose_the_session_is(ada: User) -> None:
    client = Client()
    client.get("/put?before=1")
    before = client.cookies["sessionid"].value
    client.get("/login?user=ada")
    after = client.cookies["sessionid"].value
    assert after != before
    assert not SessionStore().exists(before)
    assert SessionStore(after).subject == f"user:{ada.pk}"
    assert SessionStore(after)["before"] == "1"


def test_a_log_out_ends_the_session_and_clears_the_cookie(ada: User) -> None:
    client = logged_in(ada)
    key = client.cookies["sessionid"].value
    answer = client.get("/logout")
    assert answer.cookies["sessionid"]["max-age"] == 0
    assert not SessionStore().exists(key)


def test_the_test_client_logs_in(ada: User) -> None:
    client = Client()
    client.force_login(ada)
    assert SessionStore(client.session.session_key).subject == f"user:{ada.pk}"
    client.logout()
    assert "sessions" not in client.cookies


def test_the_command_lists_and_ends_the_sessions_of_a_user(ada: User) -> None:
    first, second = logged_in(ada), logged_in(ada)
    lines = command("ada").splitlines()
    assert len(lines) == 2
    assert command(str(ada.pk)).splitlines()[0].split()[0] in {line.split()[0] for line in lines}
    assert command("ada", f"--revoke={lines[0].split()[0]}") == "1 ended\n"
    ended = [client.get("/show").json() == {} for client in (first, second)]
    assert sorted(ended) == [False, True]
    assert command("ada", "--revoke-all") == "1 ended\n"
    assert command("ada") == "no session\n"


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("eve",), "there is no user 'eve'"),
        (("ada", "--revoke", "nonsense"), "the user has no session with the ID nonsense"),
    ],
)
def test_the_command_says_what_is_wrong(ada: User, words: tuple[str, ...], why: str) -> None:
    logged_in(ada)
    with pytest.raises(CommandError, match=why):
        command(*words)


SERVER = """
import django
from django.conf import settings
from tests.django.settings import SETTINGS

settings.configure(**{**SETTINGS, "SESSIONHA": {"store": %r}})
django.setup()
from django_sessionha.sessions import SessionStore

store = SessionStore()
store.subject = "user:%s"
store.save()
print("serves", flush=True)
input()
"""


def test_the_command_works_beside_a_server_and_refuses_without_one(
    ada: User, tmp_path: Path
) -> None:
    """Elsewhere it would start a node by itself, and say that nobody is logged in."""
    store = str(tmp_path / "store")
    with override_settings(SESSIONHA={"store": store}):
        words = [sys.executable, "-c", SERVER % (store, ada.pk)]
        with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as server:
            assert server.stdout is not None
            assert server.stdout.readline() == b"serves\n"
            assert command("ada", "--revoke-all") == "1 ended\n"
            configuration.door().start().stop()
            server.communicate(b"\n")
    for settings in ({"store": store}, {"store": "memory"}):
        with override_settings(SESSIONHA=settings):
            with pytest.raises(CommandError, match="as the user whose processes serve"):
                command("ada", "--revoke-all")
            assert not configuration.door().running


def test_expired_sessions_need_no_clearing() -> None:
    call_command("clearsessions")


# --- the admin page ---


def staff(name: str, *permissions: str) -> Client:
    """Somebody of the staff, with these permissions about user sessions."""
    user = User.objects.create_user(name, password="x", is_staff=True)
    found = Permission.objects.filter(content_type__app_label="django_sessionha")
    user.user_permissions.set(found.filter(codename__in=[f"{p}_usersession" for p in permissions]))
    client = Client()
    client.force_login(user)
    return client


def test_the_admin_page_lists_the_sessions_of_a_user(ada: User) -> None:
    logged_in(ada)
    operator = staff("operator", "view")
    assert b"Show sessions" in operator.get(PAGE).content
    page = operator.get(PAGE, {"user": "ada"}).content
    assert page.count(b"<td>default</td>") == 1
    assert b"Revoke" not in page
    assert b"There is no user" in operator.get(PAGE, {"user": "eve"}).content


def test_the_admin_page_revokes_sessions(ada: User) -> None:
    first, second = logged_in(ada), logged_in(ada)
    operator = staff("operator", "view", "delete")
    (one, _) = configuration.door().sessions_of(f"user:{ada.pk}").sessions
    answer = operator.post(PAGE, {"user": "ada", "session": one.id}, follow=True)
    assert b"1 ended." in answer.content
    assert sorted([c.get("/show").json() == {} for c in (first, second)]) == [False, True]
    answer = operator.post(PAGE, {"user": "ada", "session": ""}, follow=True)
    assert b"No session." in answer.content


def test_the_admin_page_is_for_those_who_may(ada: User) -> None:
    assert staff("nobody").get(PAGE).status_code == 403
    answer = staff("viewer", "view").post(PAGE, {"user": "ada", "session": ""})
    assert answer.status_code == 403


def test_the_admin_page_names_the_servers_that_do_not_answer(
    ada: User, monkeypatch: pytest.MonkeyPatch
) -> None:
    operator, door = staff("operator", "view", "delete"), configuration.door()
    monkeypatch.setattr(door, "revoke", lambda *_: LoggedOut(0, ("node-two",)))
    monkeypatch.setattr(door, "sessions_of", lambda _: Siblings((), ("node-two",), more=True))
    page = operator.get(PAGE, {"user": ada.username}).content
    assert b"may hold more sessions: node-two" in page
    assert b"There are more sessions" in page
    assert b"Log out everywhere" in page
    answer = operator.post(PAGE, {"user": ada.username, "session": ""}, follow=True)
    assert b"before they serve a session: node-two" in answer.content
    assert b"0 ended" not in answer.content


@pytest.mark.parametrize("rest", ["1/change/", "1/delete/", "1/history/", "x/change/", "add/"])
def test_the_admin_has_no_other_page_of_user_sessions(rest: str) -> None:
    User.objects.create_superuser("boss", password="x")
    client = Client()
    client.force_login(User.objects.get(username="boss"))
    assert client.get(PAGE + rest).status_code in (302, 403)


# --- the change from another engine ---


def old_session(engine: str, **data: Any) -> str:
    """The key of a session of another engine."""
    from importlib import import_module

    store = import_module(engine).SessionStore()
    store.update(data)
    store.save()
    key: str = store.session_key
    return key


@pytest.mark.parametrize(
    "engine", ["django.contrib.sessions.backends.cache", "django.contrib.sessions.backends.db"]
)
def test_sessions_of_the_old_engine_are_taken_over_once(ada: User, engine: str) -> None:
    """Also when a browser brings its old cookie in two requests at the same time. The old session
    ends soon after."""
    key = old_session(engine, a=1, _session_expiry=3600, _auth_user_id=str(ada.pk))
    with override_settings(SESSIONHA={"store": "memory", "migrate_from": engine}):
        first, second = Client(), Client()
        for client in (first, second):
            client.cookies["sessionid"] = key
            assert client.get("/show").json()["a"] == "1"
            found = client.cookies["sessionid"]
            assert (found.value != key, found["max-age"]) == (True, 3600)
            assert SessionStore(found.value).subject == f"user:{ada.pk}"
        assert first.get("/show").json()["a"] == "1"
    from importlib import import_module

    assert import_module(engine).SessionStore(key).get_expiry_age() == 60


async def test_a_coroutine_takes_them_over_as_well() -> None:
    engine = "django.contrib.sessions.backends.cache"
    key = old_session(engine, a=1)
    with override_settings(SESSIONHA={"store": "memory", "migrate_from": engine}):
        client = AsyncClient()
        client.cookies["sessionid"] = key
        assert (await client.get("/a/show")).json() == {"a": "1"}
        assert (await client.get("/a/show")).json() == {"a": "1"}
        assert client.cookies["sessionid"].value != key


def test_without_the_setting_a_foreign_key_is_nothing(ada: User) -> None:
    key = old_session("django.contrib.sessions.backends.cache", a=1)
    client = Client()
    client.cookies["sessionid"] = key
    answer = client.get("/show")
    assert answer.json() == {}
    assert answer.cookies["sessionid"]["max-age"] == 0
