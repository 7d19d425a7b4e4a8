"""The router's connections to upstreams, and what their failures mean."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import SimpleNamespace
from typing import Any, Final

import aiohttp
from yarl import URL

from sessionha.router.options import Options

IDLE_SECONDS: Final = 4.0
"""Idle connections are closed before uvicorn's five seconds are over, so that a request seldom
meets a connection which its server is just closing."""

NOT_ACCEPTED: Final = (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError)
"""Errors that prove that nothing of the request was accepted."""


class Broken(Exception):
    """The connection ended, or spoke no HTTP, after the request may have been sent."""


class Connections:
    """Kept connections for what may be repeated, fresh ones for the rest.

    An unsafe request never goes out on a connection that was idle: a server that died meanwhile
    then refuses it, so the next one can be tried, instead of leaving open whether it was
    executed (R14).
    """

    def __init__(self, options: Options) -> None:
        self._message_bytes = options.message_bytes
        self._head_bytes = options.head_bytes
        self._timeout = aiohttp.ClientTimeout(total=None, connect=options.connect_timeout)
        self._keeping = aiohttp.TCPConnector(limit=0, keepalive_timeout=IDLE_SECONDS)
        self._single = aiohttp.TCPConnector(limit=0, force_close=True)
        self._kept = self._session(self._keeping, never_repeat)
        self._fresh = self._session(self._single, never_repeat, _telling_of_connections())

    def _session(
        self,
        connector: aiohttp.BaseConnector,
        middleware: aiohttp.ClientMiddlewareType,
        *traces: aiohttp.TraceConfig,
    ) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            max_line_size=self._head_bytes,
            max_field_size=self._head_bytes,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            middlewares=(middleware,),
            trace_configs=list(traces),
        )

    async def request(
        self,
        method: str,
        url: URL,
        headers: Mapping[str, str],
        data: Any,
        *,
        kept: bool,
        connected: Callable[[], None],
    ) -> aiohttp.ClientResponse:
        """The upstream's answer as soon as its head is there.

        `connected` is called on a fresh connection before the first byte is written to it: a
        request that is given up earlier was certainly not accepted.

        Raises:
            NOT_ACCEPTED: nothing of the request was accepted.
            Broken, aiohttp.ClientError: it may have been.
        """
        session = self._kept if kept else self._fresh
        return await session.request(
            method,
            url,
            headers=headers,
            data=data,
            allow_redirects=False,
            trace_request_ctx=connected,
        )

    async def check(self, url: URL, timeout: float) -> int:
        """The status that a server answers there within `timeout` seconds; 0: it does not."""
        limits = aiohttp.ClientTimeout(total=timeout)
        try:
            async with self._kept.get(url, timeout=limits, allow_redirects=False) as response:
                return response.status
        except (Broken, TimeoutError, aiohttp.ClientError):
            return 0

    async def websocket(
        self, url: URL, headers: Mapping[str, str], protocols: tuple[str, ...]
    ) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse, Handshake]:
        """A websocket, the head of its handshake's answer, and the session to close with it.

        Raises:
            NotUpgraded: the upstream answered with something else.
            NOT_ACCEPTED, Broken, aiohttp.ClientError: as `request`.
        """
        handshake = Handshake()
        session = self._session(self._single, handshake)
        try:
            socket = await session.ws_connect(
                url,
                headers=headers,
                protocols=protocols,
                autoclose=False,
                max_msg_size=self._message_bytes,
            )
        except BaseException:
            await session.close()
            raise
        return session, socket, handshake

    async def close(self) -> None:
        """Close every connection."""
        for session in (self._kept, self._fresh):
            await session.close()
        for connector in (self._keeping, self._single):
            await connector.close()


def _telling_of_connections() -> aiohttp.TraceConfig:
    """Calls a request's `connected` when its connection stands."""

    async def created(_: aiohttp.ClientSession, context: SimpleNamespace, __: Any) -> None:
        context.trace_request_ctx()

    trace: aiohttp.TraceConfig = aiohttp.TraceConfig()
    trace.on_connection_create_end.append(created)
    return trace


async def never_repeat(
    request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
) -> aiohttp.ClientResponse:
    """aiohttp repeats idempotent requests whose connection broke; here the router decides."""
    try:
        return await send(request)
    except aiohttp.ClientConnectorError:
        raise
    except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
        raise Broken(str(error)) from error


class NotUpgraded(Exception):
    """The upstream answered a websocket's handshake with an ordinary response."""

    def __init__(self, status: int, headers: tuple[tuple[bytes, bytes], ...], body: bytes) -> None:
        self.status = status
        self.headers = headers
        self.body = body
        super().__init__(str(status))


REFUSAL_BYTES: Final = 64 * 1024
"""Of a refused handshake's body, as much is passed on."""


class Handshake:
    """Sees a websocket's handshake as a middleware: keeps the headers, follows no redirect."""

    def __init__(self) -> None:
        self.headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        response = await never_repeat(request, send)
        if response.status != 101:
            body = await response.content.read(REFUSAL_BYTES)
            response.close()
            raise NotUpgraded(response.status, response.raw_headers, body)
        self.headers = response.raw_headers
        return response
