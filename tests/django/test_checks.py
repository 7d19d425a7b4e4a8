"""The system checks, and what starts and stops the node."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

import sessionha
from django_sessionha import configuration
from django_sessionha.middleware import SessionMiddleware
from sessionha import InvalidSettings
from sessionha.keys import new_secret

OURS = "django_sessionha.middleware.SessionMiddleware"
THEIRS = "django.contrib.sessions.middleware.SessionMiddleware"


def found(*, deploy: bool = False, **settings: Any) -> list[str]:
    """The IDs of what our checks say about a project with these settings."""
    with override_settings(**settings):
        messages = run_checks(tags=["security"], include_deployment_checks=deploy)
    return [each.id for each in messages if each.id and each.id.startswith("sessionha.")]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, []),
        ({"MIDDLEWARE": [THEIRS]}, ["sessionha.W001"]),
        ({"SESSION_ENGINE": "django.contrib.sessions.backends.cache"}, ["sessionha.W002"]),
        ({"SESSION_COOKIE_NAME": "__Secure-id"}, ["sessionha.E002"]),
        (
            {"SESSION_COOKIE_NAME": "__Host-id", "SESSION_COOKIE_DOMAIN": "example.org"},
            ["sessionha.E002", "sessionha.E003"],
        ),
        ({"SESSIONHA": {"stroe": "memory"}}, ["sessionha.E001"]),
        (
            {"SESSIONHA": {"node": "n1", "nodes": "n1=10.0.0.1:7946,n2=10.0.0.2:7946"}},
            ["sessionha.E001"],
        ),
        ({"SESSIONHA": {"url": "http://10.0.0.1:8000"}}, ["sessionha.W003"]),
        ({"SESSIONHA": {"url": "https://10.0.0.1:8000"}}, []),
        ({"SESSIONHA": {"url": "http://10.0.0.1:8000"}, "SESSION_COOKIE_SECURE": True}, []),
        ({"SESSIONHA": {"url": "http://127.0.0.1:8000"}}, []),
    ],
)
def test_mistakes_are_told(settings: dict[str, Any], expected: list[str]) -> None:
    assert found(**settings) == expected


@pytest.mark.parametrize(
    ("engine", "why"),
    [
        ("shop.no_such_module", "cannot be imported"),
        ("..sessions", "cannot be imported"),
        ("json", "has no SessionStore"),
    ],
)
def test_an_engine_to_come_from_that_is_none_is_refused(engine: str, why: str) -> None:
    """By the checks, and at the start of a server, which makes the middleware."""
    with override_settings(SESSIONHA={"store": "memory", "migrate_from": engine}):
        (message,) = run_checks(tags=["security"])
        with pytest.raises(InvalidSettings, match="`migrate_from`"):
            SessionMiddleware(lambda _: None)
    assert message.id == "sessionha.E001"
    assert why in message.msg


@pytest.mark.parametrize(
    ("host", "deploy", "expected"),
    [("10.0.0", True, ["sessionha.W004"]), ("10.0.0", False, []), ("127.0.0", True, [])],
)
def test_streams_that_leave_the_machine_are_noticed(
    host: str, deploy: bool, expected: list[str]
) -> None:
    nodes = f"n1=http://{host}.1:7946,n2=http://{host}.2:7946"
    settings = {"node": "n1", "nodes": nodes, "secret": new_secret()}
    key = new_secret()
    assert found(deploy=deploy, SESSIONHA=settings, SECRET_KEY=key) == expected


def test_peers_without_a_secret_are_told_with_the_remedy() -> None:
    with override_settings(SESSIONHA={"node": "n1", "nodes": "n1=10.0.0.1:7946"}):
        (message,) = run_checks(tags=["security"])
    assert "sessionha secret" in message.msg


def test_sessions_in_headers_are_refused() -> None:
    with (
        override_settings(SESSIONHA={"store": "memory", "session_in": "both"}),
        pytest.raises(InvalidSettings, match="leave it at cookies"),
    ):
        configuration.door()


async def test_an_application_without_lifespan_gets_one() -> None:
    """`sessionha.asgi` starts the node before the first request and stops it after the last."""
    door = configuration.door()
    asked: list[Any] = []

    async def django(scope: Any, receive: Any, send: Any) -> None:
        asked.append(scope["type"])

    told: list[str] = []
    events = iter(["lifespan.startup", "lifespan.shutdown"])
    running: list[bool] = []

    async def receive() -> Any:
        return {"type": next(events)}

    async def send(message: Any) -> None:
        told.append(message["type"])
        running.append(door.running)

    application = sessionha.asgi(django)
    await application({"type": "lifespan"}, receive, send)
    await application({"type": "http"}, receive, send)
    assert asked == ["http"]
    assert told == ["lifespan.startup.complete", "lifespan.shutdown.complete"]
    assert running == [True, False]
