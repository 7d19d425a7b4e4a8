"""One small application behind each door, for the live tests of servers' hooks."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, MutableMapping
from typing import TYPE_CHECKING, Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessionha import SessionMiddleware, WSGISessionMiddleware
from tests.live.app import SECRET_KEY

if TYPE_CHECKING:
    from wsgiref.types import StartResponse


def count(session: MutableMapping[str, Any]) -> dict[str, Any]:
    """One more, and who says so."""
    session["n"] = session.get("n", 0) + 1
    return {"node": os.environ["SESSIONHA_NODE"], "pid": os.getpid(), "n": session["n"]}


def _wsgi(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = json.dumps(count(environ["sessionha.session"])).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


async def _asgi(request: Request) -> JSONResponse:
    return JSONResponse(count(request.session))


wsgi = WSGISessionMiddleware(_wsgi, SECRET_KEY)
asgi = Starlette(
    routes=[Route("/increment", _asgi, methods=["POST"])],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET_KEY)],
)
