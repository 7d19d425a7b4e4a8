"""The door: what `import sessionha` offers, and what it costs."""

from __future__ import annotations

import subprocess
import sys

import pytest

import sessionha

PUBLIC = [
    "CommitUnconfirmed",
    "Cookie",
    "DictSession",
    "Door",
    "ElementNotEncodable",
    "ElementNotReadable",
    "Exchange",
    "InvalidSettings",
    "KeyValueStore",
    "MixedDoor",
    "MixedExchange",
    "Promise",
    "Refusal",
    "Session",
    "SessionBusy",
    "SessionError",
    "SessionHAError",
    "SessionMiddleware",
    "SessionRevoked",
    "SessionTooLarge",
    "SessionUnavailable",
    "StaleSession",
    "StoreFull",
    "WSGISessionMiddleware",
    "__version__",
    "asgi",
    "bots",
    "current_session",
    "preflights",
    "refusal",
    "session_from",
    "start",
]


def test_the_public_names_are_these() -> None:
    assert sorted(sessionha.__all__) == PUBLIC
    assert set(PUBLIC) <= set(dir(sessionha))


@pytest.mark.parametrize("name", PUBLIC)
def test_every_public_name_is_there(name: str) -> None:
    assert getattr(sessionha, name) is not None


def test_another_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="no attribute 'Sesion'"):
        getattr(sessionha, "Sesion")  # noqa: B009


def test_importing_the_door_imports_nothing_else() -> None:
    code = "import sys, sessionha; print([m for m in sys.modules if m.startswith('sessionha.')])"

    found = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )

    assert found.stdout.strip() == "[]"
