"""The contract of applications that have no framework."""

from __future__ import annotations

from tests.contract.claims import Contract
from tests.contract.site import gthread, uvicorn


class TestASGI(Contract):
    command = uvicorn("asgi_app:app")


class TestWSGI(Contract):
    command = gthread("wsgi_app:app")
