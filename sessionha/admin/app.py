"""The ASGI application of the administration: metrics, status, sessions, log-outs."""

from __future__ import annotations

import ipaddress
from collections.abc import Awaitable, Callable
from functools import partial

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from sessionha.admin import data
from sessionha.admin.balancers import document
from sessionha.admin.doctor import examined
from sessionha.admin.draining import DrainingPage
from sessionha.admin.healing import HealingPage
from sessionha.admin.health import HealthPage
from sessionha.admin.membership import MembershipPage
from sessionha.admin.metrics import text
from sessionha.admin.snapshot import counts, status
from sessionha.admin.subjects import NO_STORE, SubjectsPage
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import REALM, Role, may, role_of
from sessionha.admin.topology import topology
from sessionha.engine import Engine
from sessionha.exposition import CONTENT_TYPE

POST = ["POST"]

Endpoint = Callable[[Request], Awaitable[Response]]


def build(engine: Engine, tally: Tally) -> Starlette:
    """The application that answers for the node of a running engine."""

    async def metrics(request: Request) -> Response:  # noqa: ARG001
        answer = text(engine, tally.total(counts(engine)))
        return Response(answer, headers=NO_STORE, media_type=CONTENT_TYPE)

    async def show(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(status(engine, tally.total(counts(engine))), headers=NO_STORE)

    async def draw(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(topology(engine), headers=NO_STORE)

    async def examine(request: Request) -> Response:  # noqa: ARG001
        return JSONResponse(await examined(engine), headers=NO_STORE)

    members, subjects, health = MembershipPage(engine), SubjectsPage(engine), HealthPage(engine)
    draining, drain = DrainingPage(engine), "/v1/drain/{node}"
    healing = HealingPage(engine)
    theirs = "/v1/subjects/{subject:path}"
    return Starlette(
        routes=[
            Route("/healthz", health.healthz),
            Route("/readyz", health.readyz),
            Route("/metrics", _guarded(metrics, engine, "read", open_here=True)),
            Route("/v1/status", _guarded(show, engine, "read")),
            Route("/v1/doctor", _guarded(examine, engine, "read")),
            Route("/v1/topology", _guarded(draw, engine, "read")),
            Route("/v1/balancers", _guarded(partial(document, engine), engine, "read")),
            Route(
                f"{data.PREFIX}/{{address:path}}",
                _guarded(data.endpoint(engine), engine, "data"),
                methods=data.METHODS,
            ),
            Route(theirs, _guarded(subjects.show, engine, "data"), methods=["GET"]),
            Route("/v1/healing", _guarded(healing.show, engine, "read")),
            Route("/v1/heal/{node}", _guarded(healing.say, engine, "operate"), methods=POST),
            Route("/v1/safe-to-stop/{node}", _guarded(healing.safe_to_stop, engine, "read")),
            Route("/v1/forget/{node}", _guarded(members.forget, engine, "operate"), methods=POST),
            Route("/v1/bootstrap", _guarded(members.bootstrap, engine, "operate"), methods=POST),
            Route(drain, _guarded(draining.show, engine, "read"), methods=["GET"]),
            Route(drain, _guarded(draining.begin, engine, "operate"), methods=POST),
            Route(drain, _guarded(draining.end, engine, "operate"), methods=["DELETE"]),
            Route("/v1/reload", _guarded(members.reload, engine, "operate"), methods=POST),
            Route(theirs, _guarded(subjects.end, engine, "data"), methods=["DELETE"]),
        ]
    )


def _guarded(
    endpoint: Endpoint, engine: Engine, needed: Role, *, open_here: bool = False
) -> Endpoint:
    """The endpoint behind the token of a role; `open_here`: this host needs none."""

    async def guarded(request: Request) -> Response:
        if open_here and _from_here(request):
            return await endpoint(request)
        role = role_of(request.headers.get("authorization", "").encode("latin-1"), engine.settings)
        if may(role, needed):
            return await endpoint(request)
        if role is not None:
            return PlainTextResponse(f"this needs the role {needed}\n", 403, NO_STORE)
        given = request.headers.get("authorization", "").partition(" ")[2].strip()
        why = "the token is not valid for this cluster's secret" if given else "this needs a token"
        return PlainTextResponse(
            f"{why}: `sessionha token --role {needed}`, with the secret of this cluster, prints"
            " the bearer token\n",
            401,
            {**NO_STORE, "www-authenticate": f"Bearer {REALM}"},
        )

    return guarded


def _from_here(request: Request) -> bool:
    """Whether a program of this host asked, and asked for this host.

    The `Host` header is what the program meant to reach: a page whose name was pointed at the
    loopback address (DNS rebinding), and most proxies, name another one there.
    """
    return (
        request.client is not None
        and _is_loopback(request.client.host)
        and _is_loopback(request.url.hostname or "")
    )


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
