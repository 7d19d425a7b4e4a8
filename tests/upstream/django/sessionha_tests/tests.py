"""Django's contract of a session engine, for ours."""

from __future__ import annotations

from django.test import SimpleTestCase
from sessions_tests.tests import SessionTestsMixin  # type: ignore[import-not-found]

from django_sessionha.sessions import SessionStore


class SessionhaTests(SessionTestsMixin, SimpleTestCase):  # type: ignore[misc]
    """Every claim of theirs."""

    backend = SessionStore
