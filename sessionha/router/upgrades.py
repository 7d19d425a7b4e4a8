"""Websockets to upstreams, and what the failures of their handshakes mean."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import aiohttp
from yarl import URL

from sessionha.router.answers import Broken
from sessionha.router.connections import NotAccepted
from sessionha.router.options import Options


class Upgrades:
    """Opens websockets, each on a connection of its own."""

    def __init__(self, options: Options) -> None:
        self._message_bytes = options.message_bytes
        self._head_bytes = options.head_bytes
        self._timeout = aiohttp.ClientTimeout(total=None, connect=options.connect_timeout)
        self._connector = aiohttp.TCPConnector(limit=0, force_close=True)

    def _session(self, middleware: aiohttp.ClientMiddlewareType) -> aiohttp.ClientSession:
        return aiohttp.ClientSession(
            connector=self._connector,
            connector_owner=False,
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=self._timeout,
            auto_decompress=False,
            max_line_size=self._head_bytes,
            max_field_size=self._head_bytes,
            skip_auto_headers=("Accept", "Accept-Encoding", "Content-Type", "User-Agent"),
            middlewares=(middleware,),
        )

    async def websocket(
        self, url: str, headers: Mapping[str, str], protocols: tuple[str, ...]
    ) -> tuple[aiohttp.ClientSession, aiohttp.ClientWebSocketResponse, Handshake]:
        """A websocket, the head of its handshake's answer, and the session to close with it.

        Raises:
            NotUpgraded: the upstream answered with something else.
            NotAccepted: there was no connection.
            Broken: it ended, or spoke something else.
        """
        handshake = Handshake()
        session = self._session(handshake)
        try:
            with _told_apart():
                socket = await session.ws_connect(
                    URL(url, encoded=True),
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
        """Close what is left of connections."""
        await self._connector.close()


@contextmanager
def _told_apart() -> Iterator[None]:
    """aiohttp's errors by what they prove."""
    try:
        yield
    except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
        raise NotAccepted(str(error)) from error
    except aiohttp.ClientError as error:
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
    """Sees a websocket's handshake as a middleware: keeps the headers, follows no redirect.

    aiohttp repeats requests whose connection broke, a handshake too; here the router decides.
    """

    def __init__(self) -> None:
        self.headers: tuple[tuple[bytes, bytes], ...] = ()

    async def __call__(
        self, request: aiohttp.ClientRequest, send: aiohttp.ClientHandlerType
    ) -> aiohttp.ClientResponse:
        try:
            response = await send(request)
        except aiohttp.ClientConnectorError:
            raise
        except (aiohttp.ServerDisconnectedError, aiohttp.ClientOSError) as error:
            raise Broken(str(error)) from error
        if response.status != 101:
            body = await response.content.read(REFUSAL_BYTES)
            response.close()
            raise NotUpgraded(response.status, response.raw_headers, body)
        self.headers = response.raw_headers
        return response
