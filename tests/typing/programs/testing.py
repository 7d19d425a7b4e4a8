"""A user's test, as strictly checked as it may be."""

from __future__ import annotations

from typing import assert_type

from starlette.applications import Starlette
from starlette.testclient import TestClient

from sessionha import Session
from sessionha.testing import in_memory, session_of, unavailable, unconfirmed


def test_a_cart(app: Starlette) -> None:
    with in_memory(), TestClient(app) as client:
        with session_of(client) as session:
            assert_type(session, Session)
            session["cart"] = ["tea"]
        with unavailable():
            assert client.get("/cart").status_code == 503
        with unconfirmed():
            assert client.get("/cart").status_code == 200
