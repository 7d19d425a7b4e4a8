"""A Starlette application as a user writes it."""

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from sessionha import SessionMiddleware


async def count(request: Request) -> JSONResponse:
    request.session["visits"] = request.session.get("visits", 0) + 1
    return JSONResponse(request.session["visits"])


app = Starlette(
    routes=[Route("/", count)],
    middleware=[
        Middleware(
            SessionMiddleware,
            secret_key="4f1c8e0b7a2d96e35c0f8a1b7d4e29c6",
            session_cookie="session",
            max_age=3600,
            path="/",
            same_site="lax",
            https_only=True,
            domain=None,
        )
    ],
)
