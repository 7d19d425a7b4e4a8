"""What stands behind the router in the tests with hostile requests; keeps what arrived complete.

`GET /arrived` tells all requests since the last time, as JSON.
"""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

_arrived: list[dict[str, Any]] = []


async def application(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """The ASGI application."""
    if scope["type"] == "lifespan":
        await _lifespan(receive, send)
        return
    body = b""
    more = scope["type"] == "http"
    while more:
        message = await receive()
        if message["type"] == "http.disconnect":
            return
        body += message.get("body", b"")
        more = message.get("more_body", False)
    answer = b"ok"
    if scope["path"] == "/arrived":
        answer = json.dumps(_arrived).encode()
        _arrived.clear()
    else:
        _arrived.append(_told(scope, body))
    headers = [(b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})


def _told(scope: dict[str, Any], body: bytes) -> dict[str, Any]:
    target = scope["raw_path"].partition(b"?")[0] + b"?" + scope["query_string"]
    return {
        "method": scope.get("method", scope["type"]),
        "target": target.decode("latin-1").rstrip("?"),
        "body": b64encode(body).decode(),
        "hosts": [value.decode() for name, value in scope["headers"] if name == b"host"],
        "names": [name.decode() for name, _ in scope["headers"]],
        "port": scope["client"][1],
    }


async def _lifespan(receive: Any, send: Any) -> None:
    await receive()
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})
