"""The lifespan of ASGI applications that have none, as Django's handler: their engines' life."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from sessionha.errors import SessionHAError
from sessionha.web.asgi import App, Receive, Scope, Send
from sessionha.web.threads import retire_all
from sessionha.web.workers import start, stop


def asgi(app: Callable[[Any, Any, Any], Awaitable[Any]]) -> App:
    """The application, with a lifespan that starts this process's node and says its goodbye.

    For applications whose framework knows no lifespan and whose sessions an adapter opens:
    `application = sessionha.asgi(get_asgi_application())` in Django's `asgi.py`. The server's
    lifespan events end here; everything else is passed on.
    """

    async def application(scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await _live(receive, send)
        else:
            await app(scope, receive, send)

    return application


async def _live(receive: Receive, send: Send) -> None:
    await receive()
    try:
        await asyncio.to_thread(start)
    except SessionHAError as error:
        await send({"type": "lifespan.startup.failed", "message": str(error)})
        raise
    retire_all()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await asyncio.to_thread(stop)
    await send({"type": "lifespan.shutdown.complete"})
