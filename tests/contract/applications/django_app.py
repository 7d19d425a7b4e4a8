"""The contract's application in Django: `wsgi` with views, `asgi` with coroutines for views,
`threads` with views that run in threads of an event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterator
from functools import partial
from typing import Any

import django
from django.conf import settings
from django.core.asgi import get_asgi_application
from django.core.wsgi import get_wsgi_application
from django.http import HttpRequest, JsonResponse, StreamingHttpResponse
from django.urls import path

import sessionha
from tests.contract.acts import SECRET_KEY, act, gate

settings.configure(
    ALLOWED_HOSTS=["*"],
    LOGGING={"version": 1, "handlers": {"err": {"class": "logging.StreamHandler"}},
             "root": {"handlers": ["err"]}, "loggers": {"django": {"propagate": True}}},
    MIDDLEWARE=["django_sessionha.middleware.SessionMiddleware"],
    ROOT_URLCONF=__name__,
    SECRET_KEY=SECRET_KEY,
    SESSION_ENGINE="django_sessionha.sessions",
)  # fmt: skip
django.setup()


def _answer(said: Any, later: Callable[[], None] | None = None, name: str = "") -> Any:
    answer: Any = JsonResponse(said, safe=False)
    if name == "background":
        answer._resource_closers.append(later)
    return answer


def view(request: HttpRequest, name: str) -> Any:
    """A view that needs a thread."""
    parameters: Any = request.GET.dict()
    session = request.session
    done = act(name, parameters, session)
    if name == "slow":
        gate(parameters).wait()
        done = act(parameters["then"], parameters, session)
    if name == "stream":
        return StreamingHttpResponse(_stream(session, parameters["token"]))
    if done.then == "renew":
        session.cycle_key()
    elif done.then == "destroy":
        session.flush()
    return _answer(done.said, partial(session.__setitem__, parameters.get("token"), True), name)


def _stream(session: Any, token: str) -> Iterator[bytes]:
    yield b"one "
    session[token] = True
    yield b"two"


async def aview(request: HttpRequest, name: str) -> Any:
    """A view that is a coroutine."""
    parameters: Any = request.GET.dict()
    session = request.session
    await session.aget("")  # what is loaded may be used like any dict
    done = act(name, parameters, session)
    if name == "slow":
        await asyncio.to_thread(gate(parameters).wait)
        done = act(parameters["then"], parameters, session)
    if name == "stream":
        return StreamingHttpResponse(_astream(session, parameters["token"]))
    if done.then == "renew":
        await session.acycle_key()
    elif done.then == "destroy":
        await session.aflush()
    return _answer(done.said, partial(session.__setitem__, parameters.get("token"), True), name)


async def _astream(session: Any, token: str) -> AsyncIterator[bytes]:
    yield b"one "
    await session.aset(token, True)
    yield b"two"


def static(request: HttpRequest) -> Any:
    """Nothing of a session."""
    return _answer("static")


urlpatterns = [
    path("static", static),
    path("async/<name>", aview),
    path("<name>", view),
]

wsgi = get_wsgi_application()
_handler = get_asgi_application()


async def _coroutines(scope: Any, receive: Any, send: Any) -> None:
    """Every view but `static` as a coroutine."""
    if scope["path"] != "/static":
        scope = {**scope, "path": f"/async{scope['path']}"}
    await _handler(scope, receive, send)


asgi = sessionha.asgi(_coroutines)
threads = sessionha.asgi(_handler)
