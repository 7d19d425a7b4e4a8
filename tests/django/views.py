"""A small project of Django: each view does one thing with the session."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import timedelta
from typing import Any, Final

from django.contrib import admin, messages
from django.contrib.auth import alogin, login, logout
from django.contrib.auth.models import User
from django.http import HttpRequest, HttpResponse, JsonResponse, StreamingHttpResponse
from django.middleware.csrf import get_token
from django.urls import path
from django.utils import timezone
from django.utils.safestring import mark_safe

from sessionha import current_session


def _shown(request: HttpRequest) -> JsonResponse:
    names = sorted(request.session.keys())
    return JsonResponse({name: repr(request.session[name]) for name in names})


def _append(request: HttpRequest) -> None:
    if "items" not in request.session:
        request.session["items"] = []
    request.session["items"].append(1)


def _expires(request: HttpRequest, when: Any) -> None:
    request.session["n"] = 1
    request.session.set_expiry(when)


def _fail(request: HttpRequest) -> JsonResponse:
    request.session["lost"] = True
    return JsonResponse({}, status=500)


def _raise(request: HttpRequest) -> None:
    request.session["lost"] = True
    raise LookupError("the view's own")


def _put(request: HttpRequest, name: str, value: Any) -> None:
    request.session[name] = value


def _renew(request: HttpRequest) -> None:
    request.session["renewed"] = True
    request.session.cycle_key()


def _cart(request: HttpRequest) -> HttpResponse:
    cart = current_session().secondary("cart")
    cart["n"] = cart.get("n", 0) + 1
    return JsonResponse(dict(cart))


def _another(request: HttpRequest) -> None:
    _cart(request)
    request.session["b"] = 2
    request.session.create()


def _pieces(session: Any) -> Iterator[bytes]:
    yield b"one "
    session["late"] = True
    yield b"two"


def _told(request: HttpRequest) -> JsonResponse:
    return JsonResponse({"told": [str(each) for each in messages.get_messages(request)]})


ACTS: Final[dict[str, Callable[[HttpRequest], Any]]] = {
    "another": _another,
    "append": _append,
    "browser": lambda request: _expires(request, 0),
    "cart": _cart,
    "clear": lambda request: request.session.clear(),
    "error": _fail,
    "flush": lambda request: request.session.flush(),
    "html": lambda request: _put(request, "html", mark_safe("<b>")),
    "login": lambda _: None,
    "logout": logout,
    "message": lambda request: messages.info(request, "hello"),
    "messages": _told,
    "minute": lambda request: _expires(request, 60),
    "object": lambda request: _put(request, "odd", object()),
    "past": lambda request: _expires(request, -1),
    "put": lambda request: request.session.update(request.GET.dict()),
    "raise": _raise,
    "renew": _renew,
    "show": lambda _: None,
    "static": lambda _: JsonResponse({}),
    "stream": lambda request: StreamingHttpResponse(_pieces(request.session)),
    "token": lambda request: JsonResponse({"token": get_token(request)}),
    "until": lambda request: _expires(request, timezone.now() + timedelta(hours=1)),
}


def view(request: HttpRequest, what: str) -> Any:
    """By a thread."""
    if what == "login":
        login(request, User.objects.get(username=request.GET["user"]))
    return ACTS[what](request) or _shown(request)


async def aview(request: HttpRequest, what: str) -> Any:
    """By a coroutine."""
    if what == "login":
        await alogin(request, await User.objects.aget(username=request.GET["user"]))
    return ACTS[what](request) or _shown(request)


def devices(request: HttpRequest) -> HttpResponse:
    """How often the user of this session is logged in."""
    session: Any = request.session
    found = session.complete(current_session().siblings())
    return JsonResponse({"sessions": len(found.sessions)})


async def adevices(request: HttpRequest) -> HttpResponse:
    """By a coroutine."""
    session: Any = request.session
    found = await session.acomplete(current_session().siblings())
    return JsonResponse({"sessions": len(found.sessions)})


urlpatterns = [
    path("devices", devices),
    path("a/devices", adevices),
    path("admin/", admin.site.urls),
    path("a/<what>", aview),
    path("<what>", view),
]
