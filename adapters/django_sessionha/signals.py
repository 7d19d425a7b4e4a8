"""Whose a session is: noted at log-in, so that a user's sessions can be found and ended."""

from __future__ import annotations

from typing import Any

from django.contrib.auth.signals import user_logged_in
from django.http import HttpRequest


def subject_of(user: Any) -> str:
    """What a user's sessions are found by: `user:` and the primary key."""
    return f"user:{user.pk}"


def note_subject(sender: object, request: HttpRequest | None, user: Any, **_: object) -> None:  # noqa: ARG001
    """Somebody has logged in: the session is theirs from its next save on."""
    session: Any = getattr(request, "session", None)
    if hasattr(session, "subject"):
        session.subject = subject_of(user)


user_logged_in.connect(note_subject, dispatch_uid="django_sessionha")
