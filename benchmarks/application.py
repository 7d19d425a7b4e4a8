"""The application under load: three routes over the same state, with each kind of session.

`create` is an application factory for any ASGI server; the environment chooses the variant:
`BENCHMARK_VARIANT` (one of VARIANTS), `BENCHMARK_KEY` (signs cookies), `BENCHMARK_REDIS` (a URL),
`BENCHMARK_STATE` (one of STATES).
The routes, the state and the answers are the same in every variant.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, MutableMapping
from typing import Any

from redis.asyncio import Redis
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.sessions import SessionMiddleware as CookieSessions
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starsessions import SessionAutoloadMiddleware
from starsessions import SessionMiddleware as StoredSessions
from starsessions.stores.redis import RedisStore

import sessionha

BARE, COOKIE, REDIS, SESSIONHA = "bare", "cookie", "starsessions-redis", "sessionha"
VARIANTS = (BARE, COOKIE, REDIS, SESSIONHA)
"""In the order of the table; all but `bare` keep the state in a session."""

LIFETIME = 14 * 24 * 60 * 60
"""Seconds; Starlette's default, given to starsessions too, whose own default never expires."""

OpenSession = Callable[[Request], MutableMapping[str, Any]]


def state() -> dict[str, Any]:
    """What a shop keeps of a customer: about 1,000 bytes as JSON, of several types."""
    return {
        "user": 48151,
        "name": "Ada Augusta Lovelace",
        "csrf_token": "Zk3vQ0h1c2Xr8mTt5yLw7bNn4pGs6jDf",
        "roles": ["customer", "reviewer", "wholesale"],
        "preferences": {"language": "en-GB", "currency": "GBP", "theme": "dark", "page_size": 50},
        "cart": [
            {"sku": f"SKU-{number:06d}", "title": f"Analytical engine part {number}", "amount": 2}
            for number in range(9)
        ],
        "recent": [f"/catalogue/parts/{number}" for number in range(5)],
        "counter": 0,
    }


def elements() -> dict[str, Any]:
    """A session near the default limit of 64 KB: 98 records of 630 bytes, and two numbers."""
    records = {
        f"document-{number:02}": {
            "id": 70_000 + number,
            "title": f"Sketch of the analytical engine, sheet {number}",
            "tags": ["draft", "mechanism", f"shelf-{number % 7}"],
            "reviewed": number % 2 == 0,
            "text": f"Of wheel {number} and its carriage. " * 17,
        }
        for number in range(98)
    }
    return {**records, "user": 48151, "counter": 0}


SHOP, ELEMENTS = "shop", "elements"
STATES: dict[str, Callable[[], dict[str, Any]]] = {SHOP: state, ELEMENTS: elements}
"""What a session holds after the log-in."""


def state_bytes(kind: str = SHOP) -> int:
    """The size of a state as compact JSON."""
    return len(json.dumps(STATES[kind](), separators=(",", ":")))


def create() -> Starlette:
    """The application of the variant that the environment names."""
    return build(os.environ["BENCHMARK_VARIANT"])


def build(variant: str) -> Starlette:
    """The application of one variant. KeyError names a missing environment variable."""
    if variant == BARE:
        shared = _state()
        return Starlette(routes=_routes(lambda _: shared))
    return Starlette(routes=_routes(_session), middleware=_MIDDLEWARE[variant]())


def _state() -> dict[str, Any]:
    return STATES[os.environ.get("BENCHMARK_STATE", SHOP)]()


def _session(request: Request) -> MutableMapping[str, Any]:
    return request.session


def _routes(open_session: OpenSession) -> list[Route]:
    async def login(request: Request) -> JSONResponse:
        session = open_session(request)
        session.update(_state())
        return _answer(session)

    async def read(request: Request) -> JSONResponse:
        return _answer(open_session(request))

    async def write(request: Request) -> JSONResponse:
        session = open_session(request)
        session["counter"] += 1
        return _answer(session)

    return [
        Route("/login", login, methods=["POST"]),
        Route("/read", read, methods=["GET"]),
        Route("/write", write, methods=["POST"]),
    ]


def _answer(session: MutableMapping[str, Any]) -> JSONResponse:
    return JSONResponse({"user": session["user"], "counter": session["counter"]})


def _cookie() -> list[Middleware]:
    return [
        Middleware(CookieSessions, secret_key=os.environ["BENCHMARK_KEY"], max_age=LIFETIME),
    ]


def _redis() -> list[Middleware]:
    store = RedisStore(connection=Redis.from_url(os.environ["BENCHMARK_REDIS"]))
    return [
        Middleware(StoredSessions, store=store, lifetime=LIFETIME, cookie_https_only=False),
        Middleware(SessionAutoloadMiddleware),
    ]


def _sessionha() -> list[Middleware]:
    return [Middleware(sessionha.SessionMiddleware, secret_key=os.environ["BENCHMARK_KEY"])]


_MIDDLEWARE: dict[str, Callable[[], list[Middleware]]] = {
    COOKIE: _cookie,
    REDIS: _redis,
    SESSIONHA: _sessionha,
}
