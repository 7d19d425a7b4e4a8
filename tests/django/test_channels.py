"""Websockets of Channels: nothing but the engine is needed."""

from __future__ import annotations

from typing import Any

from asgiref import testing
from channels.generic.websocket import AsyncJsonWebsocketConsumer
from channels.sessions import SessionMiddlewareStack

from django_sessionha.sessions import SessionStore


class Counter(AsyncJsonWebsocketConsumer):  # type: ignore[misc]
    """Counts its messages in the session."""

    async def receive_json(self, content: Any, **_: Any) -> None:
        session = self.scope["session"]
        n = await session.aget("n", 0) + 1
        await session.aset("n", n)
        await session.asave()
        await self.send_json(n)


_communicator: Any = testing.ApplicationCommunicator


async def test_a_consumer_has_the_session_of_its_cookie() -> None:
    store = SessionStore()
    await store.aset("n", 5)
    await store.asave()
    headers = [(b"cookie", f"sessionid={store.session_key}".encode())]
    scope = {"type": "websocket", "path": "/", "headers": headers}
    socket: Any = _communicator(SessionMiddlewareStack(Counter.as_asgi()), scope)
    await socket.send_input({"type": "websocket.connect"})
    assert (await socket.receive_output())["type"] == "websocket.accept"
    await socket.send_input({"type": "websocket.receive", "text": "{}"})
    assert (await socket.receive_output())["text"] == "6"
    await socket.send_input({"type": "websocket.disconnect", "code": 1000})
    await socket.wait()
    assert await SessionStore(store.session_key).aget("n") == 6
