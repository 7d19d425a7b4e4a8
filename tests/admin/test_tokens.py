"""Bearer tokens: who has which role, and what proves nothing."""

from __future__ import annotations

import pytest

from sessionha.admin.tokens import ROLES, may, role_of, tokens
from sessionha.keys import new_secret
from sessionha.settings import Settings

OLD, NEW = new_secret(), new_secret()


def settings(*secrets: str) -> Settings:
    return Settings.load({}, listen="127.0.0.1:7946", secret=list(secrets))


def proven(text: str, *secrets: str) -> str | None:
    return role_of(text.encode(), settings(*secrets))


@pytest.mark.parametrize("role", ROLES)
def test_a_token_proves_its_own_role(role: str) -> None:
    (token,) = tokens(settings(NEW), role)  # type: ignore[arg-type]
    assert proven(f"Bearer {token}", NEW) == role
    assert proven(f"bearer  {token} ", NEW) == role


def test_while_secrets_are_exchanged_the_tokens_of_all_are_accepted() -> None:
    for secret in (OLD, NEW):
        assert proven(f"Bearer {tokens(settings(secret), 'read')[0]}", NEW, OLD) == "read"
    assert tokens(settings(NEW, OLD), "read")[0] == tokens(settings(NEW), "read")[0]


@pytest.mark.parametrize(
    "words", ["", "Bearer", "Bearer ", "Bearer x", "Basic {}", "{}", "Bearer {}x", "Bearer é"]
)
def test_anything_else_proves_nothing(words: str) -> None:
    token = tokens(settings(NEW), "data")[0]
    assert proven(words.format(token), NEW) is None


def test_the_token_of_another_secret_proves_nothing() -> None:
    assert proven(f"Bearer {tokens(settings(OLD), 'read')[0]}", NEW) is None


def test_without_a_secret_there_is_no_token() -> None:
    alone = Settings.load({})
    assert tokens(alone, "read") == ()
    assert role_of(b"Bearer ", alone) is None


def test_a_role_may_do_what_those_before_it_may() -> None:
    allowed = {(has, needs) for has in ROLES for needs in ROLES if may(has, needs)}
    assert allowed == {
        ("read", "read"),
        ("operate", "read"),
        ("operate", "operate"),
        ("data", "read"),
        ("data", "operate"),
        ("data", "data"),
    }
    assert not may(None, "read")
