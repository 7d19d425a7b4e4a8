"""The application under load in Flask and in Django, with each kind of session.

`flask` and `django` are application factories for gunicorn; the environment chooses the variant, as
for `benchmarks.application`. Routes, state and answers are the same there.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, MutableMapping
from typing import Any

from benchmarks import application
from benchmarks.application import BARE, COOKIE, LIFETIME, REDIS, SESSIONHA

Session = MutableMapping[str, Any]


class Shop:
    """What the routes do, whatever the framework is."""

    def __init__(self, open_session: Callable[[Any], Session] | None) -> None:
        """`open_session`: finds the session of a request; None: one state for all."""
        shared = application.STATES[os.environ.get("BENCHMARK_STATE", application.SHOP)]()
        self._open = open_session or (lambda _: shared)
        self._lock = threading.Lock()  # two threads would lose a write of the one state

    def login(self, request: Any) -> dict[str, Any]:
        """Begin a session with the state."""
        session = self._open(request)
        for name, value in application.state().items():
            session[name] = value
        return self._told(session)

    def read(self, request: Any) -> dict[str, Any]:
        """Look at the session."""
        return self._told(self._open(request))

    def write(self, request: Any) -> dict[str, Any]:
        """Count in the session."""
        session = self._open(request)
        with self._lock:
            session["counter"] += 1
        return self._told(session)

    def _told(self, session: Session) -> dict[str, Any]:
        return {"user": session["user"], "counter": session["counter"]}


def flask() -> Any:
    """The application of Flask."""
    from flask import Flask, session  # noqa: PLC0415 -- the other framework is not loaded

    variant = os.environ["BENCHMARK_VARIANT"]
    app = Flask("shop", static_folder=None)
    app.config.update(SECRET_KEY=os.environ["BENCHMARK_KEY"], SESSION_TYPE="redis")
    if variant == REDIS:
        from flask_session import Session as FlaskSession  # noqa: PLC0415
        from redis import Redis  # noqa: PLC0415

        app.config["SESSION_REDIS"] = Redis.from_url(os.environ["BENCHMARK_REDIS"])
        FlaskSession(app)
    elif variant == SESSIONHA:
        from flask_sessionha import Session as OurSession  # noqa: PLC0415

        del app.config["SESSION_TYPE"]
        OurSession(app)
    shop = Shop(None if variant == BARE else lambda _: session)
    app.post("/login", endpoint="login")(lambda: shop.login(None))
    app.get("/read", endpoint="read")(lambda: shop.read(None))
    app.post("/write", endpoint="write")(lambda: shop.write(None))
    return app


_ENGINES = {
    COOKIE: "django.contrib.sessions.backends.signed_cookies",
    REDIS: "django.contrib.sessions.backends.cache",
    SESSIONHA: "django_sessionha.sessions",
}


def django() -> Any:
    """The application of Django."""
    from django import setup  # noqa: PLC0415
    from django.conf import settings  # noqa: PLC0415
    from django.core.wsgi import get_wsgi_application  # noqa: PLC0415
    from django.http import JsonResponse  # noqa: PLC0415
    from django.urls import path  # noqa: PLC0415

    variant = os.environ["BENCHMARK_VARIANT"]
    theirs = "django.contrib.sessions.middleware.SessionMiddleware"
    ours = "django_sessionha.middleware.SessionMiddleware"
    middleware = [] if variant == BARE else [ours if variant == SESSIONHA else theirs]
    redis = {"BACKEND": "django_redis.cache.RedisCache", "LOCATION": ""}
    redis["LOCATION"] = os.environ.get("BENCHMARK_REDIS", "")
    settings.configure(
        ALLOWED_HOSTS=["*"],
        SECRET_KEY=os.environ["BENCHMARK_KEY"],
        ROOT_URLCONF=__name__,
        MIDDLEWARE=middleware,
        SESSION_ENGINE=_ENGINES.get(variant, ""),
        SESSION_COOKIE_AGE=LIFETIME,
        CACHES={"default": redis} if variant == REDIS else {},
    )
    setup()
    shop = Shop(None if variant == BARE else lambda request: request.session)
    for name in ("login", "read", "write"):
        answer = getattr(shop, name)
        urlpatterns.append(path(name, lambda request, answer=answer: JsonResponse(answer(request))))
    return get_wsgi_application()


urlpatterns: list[Any] = []
"""Of Django, which finds them in the module that `ROOT_URLCONF` names."""
