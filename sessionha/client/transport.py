"""The one module that knows the HTTP library: sends a request, gives the response.

Its transports are used without its clients: those log every URL, which names a session, follow
redirects, and go through proxies of the environment, which would see the token.
"""

from __future__ import annotations

import ssl
from typing import Final

import httpx2

from sessionha.client.talk import POSITION, Answer, Ask, unanswered

CONNECTIONS: Final = 16
"""At once, of one client; an administration takes 64 of all."""

IDLE: Final = 2.0
"""Seconds that a connection is kept: a node closes it after five, and a request that is sent into
a closing one has an unknown outcome."""

_LIMITS: Final = httpx2.Limits(
    max_connections=CONNECTIONS,
    max_keepalive_connections=CONNECTIONS,
    keepalive_expiry=IDLE,
)

_UNSENT: Final = (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout)

Trust = ssl.SSLContext | bool


class _Base:
    def __init__(self, url: str, timeout: float) -> None:
        """Raises ValueError: the URL is none of HTTP."""
        base = httpx2.URL(url)
        if base.scheme not in ("http", "https") or not base.host:
            raise ValueError(f"{url!r} is no URL: write http://host:port of a node's `admin`")
        self._base = url.rstrip("/")
        self._timeouts = httpx2.Timeout(timeout).as_dict()

    def _request(self, ask: Ask) -> httpx2.Request:
        return httpx2.Request(
            ask.method,
            self._base + ask.path,
            headers=dict(ask.headers),
            content=ask.body,
            extensions={"timeout": self._timeouts},
        )


class Transport(_Base):
    """Blocking."""

    def __init__(self, url: str, timeout: float, trust: Trust) -> None:
        super().__init__(url, timeout)
        self._http = httpx2.HTTPTransport(verify=trust, trust_env=False, limits=_LIMITS)

    def send(self, ask: Ask) -> Answer:
        """Raises SessionUnavailable, CommitUnconfirmed: no answer came."""
        try:
            response = self._http.handle_request(self._request(ask))
            try:
                body = response.read()
            finally:
                response.close()
        except httpx2.TransportError as error:
            raise _failure(ask, error) from error
        return _answer(response, body)

    def close(self) -> None:
        self._http.close()


class AsyncTransport(_Base):
    """On an event loop, of asyncio or trio."""

    def __init__(self, url: str, timeout: float, trust: Trust) -> None:
        super().__init__(url, timeout)
        self._http = httpx2.AsyncHTTPTransport(verify=trust, trust_env=False, limits=_LIMITS)

    async def send(self, ask: Ask) -> Answer:
        """Raises SessionUnavailable, CommitUnconfirmed: no answer came."""
        try:
            response = await self._http.handle_async_request(self._request(ask))
            try:
                body = await response.aread()
            finally:
                await response.aclose()
        except httpx2.TransportError as error:
            raise _failure(ask, error) from error
        return _answer(response, body)

    async def close(self) -> None:
        await self._http.aclose()


def _answer(response: httpx2.Response, body: bytes) -> Answer:
    return Answer(response.status_code, response.headers.get(POSITION), body)


def _failure(ask: Ask, error: httpx2.TransportError) -> Exception:
    why = f"{type(error).__name__}: {error}".rstrip(": ")
    return unanswered(ask, why, sent=not isinstance(error, _UNSENT))
