"""The answer of `/v1/balancers`: what load balancers are told of the cluster, without any key."""

from __future__ import annotations

from typing import Final

from starlette.requests import Request
from starlette.responses import Response

from sessionha.balancers.document import document_of
from sessionha.engine import Engine

MEDIA_TYPE: Final = "application/json"


async def document(engine: Engine, request: Request) -> Response:
    """The document, with an ETag; 304 for whoever has it already."""
    found = document_of(engine.membership.view(), engine.settings)
    headers = {"etag": f'"{found.version}"', "cache-control": "no-cache"}
    known = {each.strip() for each in request.headers.get("if-none-match", "").split(",")}
    if known & {headers["etag"], f"W/{headers['etag']}", "*"}:
        return Response(status_code=304, headers=headers)
    return Response(found.text, headers=headers, media_type=MEDIA_TYPE)
