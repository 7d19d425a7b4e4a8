"""One small application behind each door, for the live tests of servers and their hooks."""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, MutableMapping
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessionha import SessionMiddleware, WSGISessionMiddleware
from tests.live.app import SECRET_KEY

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

logging.basicConfig(
    level=logging.INFO, format="%(asctime)s %(process)d %(levelname)s %(name)s %(message)s"
)


def put(session: MutableMapping[str, Any], elements: Mapping[str, str]) -> dict[str, Any]:
    """Store these elements; what the session holds then, and who says so."""
    session.update(elements)
    return {"node": os.environ["SESSIONHA_NODE"], "pid": os.getpid(), "session": dict(session)}


def _wsgi(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    elements = dict(parse_qsl(environ["QUERY_STRING"]))
    body = json.dumps(put(environ["sessionha.session"], elements)).encode()
    headers = [("content-type", "application/json"), ("content-length", str(len(body)))]
    start_response("200 OK", headers)
    return [body]


async def _asgi(request: Request) -> JSONResponse:
    return JSONResponse(put(request.session, request.query_params))


wsgi = WSGISessionMiddleware(_wsgi, SECRET_KEY)
asgi = Starlette(
    routes=[Route("/put", _asgi, methods=["PUT"])],
    middleware=[Middleware(SessionMiddleware, secret_key=SECRET_KEY)],
)
