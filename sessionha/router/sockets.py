"""One websocket on its way through the router: the handshake, then messages both ways."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from typing import Any, Final

import aiohttp
from multidict import CIMultiDict

from sessionha.router.answers import Broken
from sessionha.router.body import Receive
from sessionha.router.budget import Budget
from sessionha.router.connections import NotAccepted
from sessionha.router.counts import Counts
from sessionha.router.headers import Request, returned
from sessionha.router.options import Options
from sessionha.router.upgrades import NotUpgraded, Upgrades
from sessionha.router.upstreams import Upstream, Upstreams
from sessionha.session.headers import ELSEWHERE, IF_REPEATABLE, RETRY

logger = logging.getLogger("sessionha.router")

Send = Callable[[dict[str, Any]], Awaitable[None]]

GOING_AWAY: Final = 1001
NO_CODE: Final = 1005
ABNORMAL: Final = 1006
TRY_AGAIN_LATER: Final = 1013

_UNSENDABLE: Final = frozenset({NO_CODE, ABNORMAL, 1015})
"""Codes that say how a connection ended and must not stand in a close frame (RFC 6455, 7.4.1)."""

_HANDSHAKE: Final = frozenset(
    {
        b"sec-websocket-accept",
        b"sec-websocket-extensions",
        b"sec-websocket-key",
        b"sec-websocket-protocol",
        b"sec-websocket-version",
    }
)
"""Each hop shakes hands by itself."""


class SocketExchange:
    """Connects a client's websocket with one of the first upstream that accepts it."""

    def __init__(
        self,
        scope: dict[str, Any],
        request: Request,
        receive: Receive,
        send: Send,
        *,
        upstreams: Upstreams,
        upgrades: Upgrades,
        options: Options,
        budget: Budget,
        counts: Counts,
        wanted: str,
    ) -> None:
        """`wanted`: what there is none of when the websocket has no candidates."""
        self._scope = scope
        self._receive = receive
        self._send = send
        self._upstreams = upstreams
        self._upgrades = upgrades
        self._options = options
        self._budget = budget
        self._counts = counts
        self._wanted = wanted
        self._target = request.target
        self._headers = CIMultiDict(
            (name.decode("latin-1"), _text(value))
            for name, value in request.headers
            if name not in _HANDSHAKE
        )
        self._clock: asyncio.Timeout | None = None
        self._client_closed = False

    async def run(self, candidates: Callable[[], Iterator[Upstream]]) -> None:
        """Carry messages until one side closes; nothing is repeated once a side accepted."""
        why = "is known"
        for upstream in candidates():
            why = "can be reached"
            upstream.exchanges.add(self)
            try:
                if await self._attempt(upstream):
                    return
            finally:
                self._clock = None
                upstream.exchanges.discard(self)
        await self._refuse(
            503, [(b"retry-after", b"1")], f"Unavailable: no {self._wanted} {why}.\n".encode()
        )

    async def _attempt(self, upstream: Upstream) -> bool:
        """Whether the client has its answer. A handshake is a GET: it may be repeated."""
        url = upstream.target.url.rstrip("/") + self._target
        protocols = tuple(self._scope.get("subprotocols", ()))
        try:
            async with asyncio.timeout(self._options.response_timeout) as self._clock:
                session, socket, handshake = await self._upgrades.websocket(
                    url, self._headers, protocols
                )
        except NotAccepted:
            self._upstreams.refused(upstream)
            return False
        except NotUpgraded as refusal:
            return await self._pass_refusal(refusal)
        except (Broken, TimeoutError):
            self._upstreams.broke(upstream)
            return not await self._may_go_on()
        try:
            self._upstreams.answered(upstream)
            await self._carry(socket, handshake.headers)
        finally:
            await session.close()
        return True

    async def _may_go_on(self) -> bool:
        """Whether the handshake may be sent to another server; else the client is told."""
        if self._budget.spend(asyncio.get_running_loop().time()):
            self._counts.repeats["broken"] += 1
            return True
        self._counts.denied += 1
        await self._refuse(502, [], b"The server failed while it served this request.\n")
        return False

    async def _carry(
        self, socket: aiohttp.ClientWebSocketResponse, headers: tuple[tuple[bytes, bytes], ...]
    ) -> None:
        passed = [item for item in returned(headers) if not item[0].startswith(b"sec-websocket-")]
        accept = {"type": "websocket.accept", "subprotocol": socket.protocol, "headers": passed}
        await self._send(accept)
        upward = asyncio.create_task(self._upward(socket))
        try:
            async with asyncio.timeout(None) as self._clock:
                await self._downward(socket)
                if self._client_closed:
                    await upward  # it is telling the upstream why
        except TimeoutError:
            await self._send({"type": "websocket.close", "code": GOING_AWAY})
        finally:
            upward.cancel()
            await asyncio.wait([upward])
            await socket.close()

    async def _upward(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """From the client. Its close is the upstream's close."""
        while True:
            message = await self._receive()
            if message["type"] == "websocket.disconnect":
                self._client_closed = True
                code = message.get("code") or NO_CODE
                code = GOING_AWAY if code in _UNSENDABLE else code
                await socket.close(code=code, message=(message.get("reason") or "").encode())
                return
            text = message.get("text")
            try:
                if text is not None:
                    await socket.send_str(text)
                else:
                    await socket.send_bytes(message["bytes"])
            except ConnectionError:  # the other direction tells the client
                return

    async def _downward(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        """From the upstream. Its close, or death, is the client's close."""
        while True:
            message = await socket.receive()
            if message.type is aiohttp.WSMsgType.TEXT:
                await self._send({"type": "websocket.send", "text": message.data})
            elif message.type is aiohttp.WSMsgType.BINARY:
                await self._send({"type": "websocket.send", "bytes": message.data})
            elif message.type is aiohttp.WSMsgType.CLOSE:
                code = message.data if message.data not in (None, *_UNSENDABLE) else 1000
                close = {"type": "websocket.close", "code": code, "reason": message.extra or ""}
                await self._send(close)
                return
            elif message.type is not aiohttp.WSMsgType.CONTINUATION:
                if not self._client_closed:
                    await self._send({"type": "websocket.close", "code": GOING_AWAY})
                return

    def node_lost(self) -> None:
        """End it: the client's next connection goes to a backup."""
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time())

    async def _pass_refusal(self, refusal: NotUpgraded) -> bool:
        headers = returned(refusal.headers)
        if refusal.status == 503:
            lowered = {name.lower(): value for name, value in refusal.headers}
            if lowered.get(RETRY.encode(), b"").decode("latin-1") in (ELSEWHERE, IF_REPEATABLE):
                return False
        await self._refuse(refusal.status, headers, refusal.body)
        return True

    async def _refuse(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        """An ordinary response where the server can send one, else its standard refusal (403)."""
        if "websocket.http.response" not in self._scope.get("extensions", {}):
            await self._send({"type": "websocket.close", "code": TRY_AGAIN_LATER})
            return
        headers = [item for item in headers if item[0] != b"content-length"]
        headers.append((b"content-length", str(len(body)).encode()))
        start = {"type": "websocket.http.response.start", "status": status, "headers": headers}
        await self._send(start)
        await self._send({"type": "websocket.http.response.body", "body": body})


def _text(value: bytes) -> str:
    """Header bytes as the text that is written as the same bytes where they are UTF-8."""
    try:
        return value.decode()
    except UnicodeDecodeError:
        return value.decode("latin-1")
