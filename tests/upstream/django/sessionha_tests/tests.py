"""Django's contract of a session engine, for ours."""

from __future__ import annotations

from django.test import SimpleTestCase
from sessions_tests.tests import SessionTestsMixin

from django_sessionha.sessions import SessionStore


class SessionhaTests(SessionTestsMixin, SimpleTestCase):
    """Every claim of theirs."""

    backend = SessionStore
