"""The system checks, and what starts and stops the node."""

from __future__ import annotations

from typing import Any

import pytest
from django.core.checks import run_checks
from django.test import override_settings

import sessionha
from django_sessionha import configuration
from sessionha import InvalidSettings

OURS = "django_sessionha.middleware.SessionMiddleware"
THEIRS = "django.contrib.sessions.middleware.SessionMiddleware"


def found(**settings: Any) -> list[str]:
    """The IDs of what the checks say about a project with these settings."""
    with override_settings(**settings):
        return [message.id or "" for message in run_checks(tags=["security"])]


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
