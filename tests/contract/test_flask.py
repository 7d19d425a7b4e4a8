"""The contract of Flask and Quart applications."""

from __future__ import annotations

from tests.contract.claims import Contract
from tests.contract.site import gevent, gthread, uvicorn


class TestFlask(Contract):
    command = gthread("flask_app:app")


class TestFlaskUnderGevent(Contract):
    command = gevent("flask_app:app")


class TestQuart(Contract):
    command = uvicorn("quart_app:app")
