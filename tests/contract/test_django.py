"""The contract of Django applications, by threads and by coroutines."""

from __future__ import annotations

from tests.contract.claims import Contract
from tests.contract.site import gthread, uvicorn


class OfDjango(Contract):
    """As Django's own sessions answer: a request that has changed a session which another one
    ended meanwhile is a bad request (`SessionInterrupted`)."""

    __test__ = False
    cookie = "sessionid"
    interrupted = 400


class TestDjango(OfDjango):
    __test__ = True
    command = gthread("django_app:wsgi")


class TestAsyncDjango(OfDjango):
    __test__ = True
    command = uvicorn("django_app:asgi")
