"""The middleware: it finds the session before the view, and tells the client where it is.

A subclass of Django's, with its rules of when a session is saved and what its cookie says, and a
native asynchronous path.
"""

from __future__ import annotations

import time
from collections.abc import Awaitable, Sequence
from functools import partial
from typing import Any, Final, cast

from asgiref.sync import iscoroutinefunction
from django.conf import settings
from django.contrib.sessions.backends.base import UpdateError
from django.contrib.sessions.exceptions import SessionInterrupted
from django.contrib.sessions.middleware import SessionMiddleware as DjangoSessionMiddleware
from django.http import HttpRequest, HttpResponse
from django.utils.cache import patch_vary_headers
from django.utils.http import http_date

from django_sessionha.changeover import aformer_of, asettle, follow, former_of, settle
from django_sessionha.configuration import door, is_partitioned, promise
from django_sessionha.sessions import Former, SessionStore
from sessionha import (
    Cookie,
    MixedExchange,
    SessionError,
    SessionUnavailable,
    StoreFull,
    refusal,
)

INTERRUPTED: Final = (
    "The request's session was deleted before the request completed. The user may have logged out"
    " in a concurrent request, for example."
)

_REFUSED: Final = (SessionUnavailable, StoreFull)
_EXCHANGE: Final = "_sessionha"
"""The request's attribute with its exchange."""


class SessionMiddleware(DjangoSessionMiddleware):
    """Gives every request its session, in the place of the middleware of this name of Django's.

    A session that cannot be had, or not be stored, is answered with 503 and Retry-After.

    Raises:
        InvalidSettings: what is wrong with the settings, every mistake.
    """

    def __init__(self, get_response: Any) -> None:
        super().__init__(get_response)
        self._asynchronous = iscoroutinefunction(get_response)
        door()  # so that a server's hook can start it, and mistakes are told now

    # --- the way of a request ---

    def __call__(self, request: HttpRequest) -> Any:
        """The response, or a coroutine that makes it."""
        if self._asynchronous:
            return self.__acall__(request)
        if (page := _health_page(request)) is not None:
            return page
        self.process_request(request)
        try:
            page = _canary_page(request)
            response = self.get_response(request) if page is None else page
            return self.process_response(request, response)
        except BaseException:
            _give_up(request)
            raise

    async def __acall__(self, request: HttpRequest) -> Any:
        """The same on an event loop; no thread is needed for it."""
        if (page := _health_page(request)) is not None:
            return page
        if self._has_session(request):
            former = await aformer_of(request.COOKIES.get(promise().session_cookie))
            cookies, meta, secure = _cookies(request, former), request.META, request.is_secure()
            entering = door().admit_async(cookies, promise(), secure=secure, environ=meta)
            self._enter(request, await entering, former)
        try:
            response = _canary_page(request)
            if response is None:
                response = await cast("Awaitable[Any]", self.get_response(request))
            return await self.aprocess_response(request, response)
        except BaseException:
            _give_up(request)
            raise

    def process_request(self, request: HttpRequest) -> None:
        """Find the session that the request's cookies name."""
        if self._has_session(request):
            former = former_of(request.COOKIES.get(promise().session_cookie))
            cookies, meta, secure = _cookies(request, former), request.META, request.is_secure()
            exchange = door().admit(cookies, promise(), secure=secure, environ=meta)
            self._enter(request, exchange, former)

    def _has_session(self, request: HttpRequest) -> bool:
        """Whether it is to be found; else the request has another engine's, or an empty one."""
        if not issubclass(self.SessionStore, SessionStore):
            super().process_request(request)
            return False
        if door().opts_out(request.path, request.META):
            request.session = store = self._store()
            store.opted_out = True
            return False
        return True

    def _store(self, key: str | None = None) -> SessionStore:
        store = self.SessionStore(key)
        assert isinstance(store, SessionStore), "it is our engine"
        return store

    def _enter(self, request: HttpRequest, exchange: MixedExchange, former: Former | None) -> None:
        setattr(request, _EXCHANGE, exchange)
        store = self._store(_key(request, former))
        store.enter(exchange)
        request.session = store
        if former is not None:
            follow(store, former)

    def process_exception(self, request: HttpRequest, exception: Exception) -> HttpResponse | None:
        """503 for a view whose session is not available."""
        exchange = getattr(request, _EXCHANGE, None)
        if exchange is None or not isinstance(exception, _REFUSED):
            return None
        return _refused(exchange, exception)

    # --- the way of its response ---

    def process_response(self, request: HttpRequest, response: Any) -> Any:
        """Save the session by Django's rules, and tell the client what it needs to know."""
        visit = _Response.of(request, response)
        if visit is None:
            return self._elsewhere(request, response)
        try:
            if visit.saves():
                visit.store.save()
            for exchange in visit.exchanges():
                exchange.commit()
            if visit.saved:
                settle(visit.store)
        except UpdateError:
            raise SessionInterrupted(INTERRUPTED) from None
        except _REFUSED as error:
            return visit.refused(error)
        return visit.told()

    def _elsewhere(self, request: HttpRequest, response: Any) -> Any:
        """The response of a request whose session is another engine's, or none."""
        if getattr(getattr(request, "session", None), "opted_out", False):
            return response
        return super().process_response(request, response)

    async def aprocess_response(self, request: HttpRequest, response: Any) -> Any:
        """The same on an event loop."""
        visit = _Response.of(request, response)
        if visit is None:
            return self._elsewhere(request, response)
        try:
            if visit.saves():
                await visit.store.asave()
            for exchange in visit.exchanges():
                await exchange.acommit()
            if visit.saved:
                await asettle(visit.store)
        except UpdateError:
            raise SessionInterrupted(INTERRUPTED) from None
        except _REFUSED as error:
            return visit.refused(error)
        return visit.told()


class _Response:
    """A response and the session of its request: what is to be saved and told."""

    def __init__(self, request: HttpRequest, response: Any, store: SessionStore) -> None:
        self.request = request
        self.response = response
        self.store = store
        self.entered: MixedExchange = getattr(request, _EXCHANGE)
        """The request's; the view may have put another session in the place of its own."""
        self.brought = settings.SESSION_COOKIE_NAME in request.COOKIES
        self.accessed = store.accessed
        self.empty = False
        self.saved = False
        self.tells = False
        """Whether the client is told its session's key, though nothing is saved."""
        self.max_age = _route_age()

    def saves(self) -> bool:
        """Whether the session is to be saved. Raises SessionUnavailable: it cannot be had."""
        store, failed = self.store, self.response.status_code >= 500
        if failed:
            for exchange in self.exchanges():
                exchange.discard()
        elif store.modified or settings.SESSION_SAVE_EVERY_REQUEST or store.changed:
            max_age = self._max_age()  # this loads it, and may find that it is over
            if not store.is_empty():
                self.max_age, self.saved = max_age, True
        if self._joins() and not (self.saved or failed):
            max_age = self._max_age()
            if not store.is_empty():
                self.max_age, self.tells = max_age, True
        self.empty = store.is_empty()
        return self.saved

    def _joins(self) -> bool:
        """Whether the client has the old cookie still, of a session that was taken over."""
        former = self.store.former
        joins = former is not None and former.successor is not None
        return joins and self.exchange.session.failure is None

    @classmethod
    def of(cls, request: HttpRequest, response: Any) -> _Response | None:
        """None: the session is not ours."""
        store = getattr(request, "session", None)
        if not isinstance(store, SessionStore) or getattr(request, _EXCHANGE, None) is None:
            return None
        return cls(request, response, store)

    @property
    def exchange(self) -> MixedExchange:
        """Where the session is committed."""
        return self.store.exchange or self.entered

    def exchanges(self) -> Sequence[MixedExchange]:
        """What is to be committed: where the view has made another session, also the client's other
        ones, which are where the request has come in."""
        if self.exchange is self.entered:
            return (self.entered,)
        self.entered.discard_session()
        return self.exchange, self.entered

    def _max_age(self) -> int | None:
        if self.store.get_expire_at_browser_close():
            return None
        return int(self.store.get_expiry_age())

    def told(self) -> Any:
        """The response with its cookies. What its body changes is stored when it is closed."""
        response, exchange = self.response, self.exchange
        failure = exchange.session.failure
        if failure is not None and self.accessed and response.status_code >= 500:
            return self.refused(failure)  # the view has become 500 for that
        self._tell_session()
        varies = self.accessed or self.saved
        # The session's own last: of two routes the client keeps that of its main session.
        for each in dict.fromkeys((self.entered, exchange)):
            told = each.told
            assert told is not None, "it has committed"
            for cookie in told.cookies:
                self._set(cookie)
            for name, value in told.headers:
                response.headers[name] = value
            varies = varies or bool(each.vary or told.cookies)
        if varies:
            patch_vary_headers(response, ("Cookie",))
        response._resource_closers.append(partial(_close, exchange, self.entered))
        return response

    def _tell_session(self) -> None:
        if self.saved or self.tells:
            self._set(Cookie(settings.SESSION_COOKIE_NAME, self.store.session_key, "session"))
        elif self.brought and self.empty and (self.store.flushed or not self._was_overtaken):
            self._delete(settings.SESSION_COOKIE_NAME, settings.SESSION_COOKIE_PATH)
            patch_vary_headers(self.response, ("Cookie",))

    @property
    def _was_overtaken(self) -> bool:
        return self.entered.was_overtaken

    def _set(self, cookie: Cookie) -> None:
        """Set a cookie, of a client's session or of its route, as Django sets its own."""
        route = cookie.kind == "route"
        path = "/" if route else settings.SESSION_COOKIE_PATH
        if cookie.value is None:
            self._delete(cookie.name, path)
            return
        max_age = self.max_age
        self.response.set_cookie(
            cookie.name,
            cookie.value,
            max_age=max_age,
            expires=None if max_age is None else http_date(time.time() + max_age),
            domain=settings.SESSION_COOKIE_DOMAIN,
            path=path,
            secure=self._is_secure,
            httponly=route or settings.SESSION_COOKIE_HTTPONLY,
            samesite=settings.SESSION_COOKIE_SAMESITE,
        )
        if is_partitioned():
            _partition(self.response.cookies[cookie.name])

    def _delete(self, name: str, path: str) -> None:
        """Have the browser forget a cookie: with the attributes that it was set with, or it keeps a
        `Partitioned` one, and ignores the header in embedded pages."""
        self.response.delete_cookie(
            name,
            path=path,
            domain=settings.SESSION_COOKIE_DOMAIN,
            samesite=settings.SESSION_COOKIE_SAMESITE,
        )
        morsel = self.response.cookies[name]
        if self._is_secure:
            morsel["secure"] = True
        if is_partitioned():
            _partition(morsel)

    @property
    def _is_secure(self) -> bool:
        return bool(settings.SESSION_COOKIE_SECURE or self.entered.secure)

    def refused(self, error: SessionError) -> HttpResponse:
        """503 in the place of the response."""
        self.entered.discard()
        self.response.close()
        response = _refused(self.exchange, error)
        _close(self.exchange, self.entered)
        return response


def _route_age() -> int | None:
    if settings.SESSION_EXPIRE_AT_BROWSER_CLOSE:
        return None
    return int(settings.SESSION_COOKIE_AGE)


def _partition(morsel: Any) -> None:
    """Add the attribute, which the standard library knows from Python 3.14 on."""
    if morsel.isReservedKey("partitioned"):
        morsel["partitioned"] = True
    else:
        morsel["samesite"] = f"{morsel['samesite'] or 'None'}; Partitioned"


def _refused(exchange: MixedExchange, error: SessionError) -> HttpResponse:
    answer = refusal(error)
    exchange.discard()
    return HttpResponse(answer.body, status=answer.status, headers=dict(answer.headers))


def _key(request: HttpRequest, former: Former | None) -> str | None:
    """The session key that the request names, or that followed it."""
    if former is not None and former.successor is not None:
        return former.successor
    return request.COOKIES.get(promise().session_cookie)


def _cookies(request: HttpRequest, former: Former | None) -> str:
    """The request's `Cookie` header, with the key that followed the one in it."""
    header: str = request.META.get("HTTP_COOKIE", "")
    name = promise().session_cookie
    key = _key(request, former)
    if former is not None and former.successor is not None and header:
        return f"{header}; {name}={key}"  # of several it is the valid one that counts
    if key and key not in header:  # tests and middleware put it into COOKIES alone
        return f"{name}={key}"
    return header


def _health_page(request: HttpRequest) -> HttpResponse | None:
    """The answer to probes, where `health_path` is set."""
    if not door().health_paths:
        return None
    answer = door().health(request.path)
    if answer is None:
        return None
    status, body = answer
    headers = {"cache-control": "no-store"}
    return HttpResponse(body, status=status, content_type="text/plain", headers=headers)


def _canary_page(request: HttpRequest) -> HttpResponse | None:
    """The answer to a canary of `sessionha doctor`, whose session begins or ends."""
    exchange: MixedExchange | None = getattr(request, _EXCHANGE, None)
    found = None if exchange is None else exchange.canary(request.META)
    if exchange is None or found is None:
        return None
    if found.wish == "begin":
        request.session[found.element] = True
    elif found.wish == "end":
        request.session.flush()
    headers = {"cache-control": "no-store"}
    return HttpResponse(found.body, found.media_type, found.status, headers=headers)


def _close(*exchanges: MixedExchange) -> None:
    """The response is out."""
    for exchange in exchanges:
        exchange.finish()


def _give_up(request: HttpRequest) -> None:
    """The request has no response."""
    exchange = getattr(request, _EXCHANGE, None)
    if exchange is not None:
        exchange.discard()
        exchange.leave()
