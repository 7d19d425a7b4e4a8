"""The demonstration shop: a catalogue, a cart, a log-in, and what happens behind the page.

`create_app` is the factory that every server process calls. What the demo adds to an ordinary
FastAPI shop is `SessionMiddleware`, and the panel that shows what it does.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal, NamedTuple

import aiohttp
from fastapi import APIRouter, Depends, FastAPI, Form, Header, HTTPException, Request
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse
from fastapi.staticfiles import StaticFiles
from fastapi.templating import Jinja2Templates

from demo_app.catalogue import BY_SKU, MOST, PLANTS, lines
from demo_app.witness import Witness, served, session_of
from sessionha import SessionMiddleware

if TYPE_CHECKING:
    from sessionha.web.base import Engine

HERE = Path(__file__).resolve().parent

ASK_CONTROL = 0.5
"""Seconds that a page waits for the states of the servers before it goes without."""

TOKENS = 2000
"""Most tokens in a session of the check: far below the limit of a session's size."""

KEYS = 32
"""Idempotency keys remembered: a client repeats its last requests, not old ones."""


async def same_origin(request: Request, origin: Annotated[str, Header()] = "") -> None:
    """Refuse forms of other sites. Raises HTTPException 403."""
    if origin and origin.partition("://")[2] != request.headers.get("host"):
        raise HTTPException(403, "This form is of another site.")


pages = APIRouter()
forms = APIRouter(dependencies=[Depends(same_origin)], default_response_class=RedirectResponse)
check = APIRouter(prefix="/api/tokens")
templates = Jinja2Templates(HERE / "templates")


class Options(NamedTuple):
    """What the supervisor tells this process; empty where the shop runs by itself."""

    secret_key: str
    control: str
    token: str
    heal_after: str

    @classmethod
    def from_environment(cls) -> Options:
        """Read the DEMO_… variables. Raises KeyError when there is no DEMO_SECRET_KEY."""
        return cls(
            os.environ["DEMO_SECRET_KEY"],
            os.environ.get("DEMO_CONTROL_URL", ""),
            os.environ.get("DEMO_TOKEN", ""),
            os.environ.get("DEMO_HEAL_AFTER", ""),
        )


Role = Literal["serves you", "holds a copy", ""]


class Server(NamedTuple):
    """One row of the panel."""

    name: str
    state: str
    role: Role


def create_app(engine: Engine | None = None) -> FastAPI:
    """The shop of one server process, configured by the environment. Tests bring an engine."""
    options = Options.from_environment()
    app = FastAPI(title="Perennial", openapi_url=None, lifespan=_lifespan)
    app.state.options = options
    app.mount("/static", StaticFiles(directory=HERE / "static"), name="static")
    app.include_router(pages)
    app.include_router(forms)
    app.include_router(check)
    app.add_middleware(SessionMiddleware, secret_key=options.secret_key, engine=engine)
    app.add_middleware(Witness)  # the outermost: it sees what was committed
    return app


@asynccontextmanager
async def _lifespan(app: FastAPI) -> AsyncIterator[None]:
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ASK_CONTROL)) as http:
        app.state.http = http
        yield


# --- pages


Field = Annotated[str, Form(max_length=40)]


@pages.get("/", response_class=HTMLResponse)
async def show(request: Request) -> HTMLResponse:
    """The whole shop is one page."""
    session = request.session
    cart = lines(session.get("cart", {}))
    options: Options = request.app.state.options
    now = served(request.scope)
    context = {
        "plants": PLANTS,
        "cart": cart,
        "count": sum(line.number for line in cart),
        "total": sum(line.total for line in cart),
        "in_cart": {line.plant.sku: line.number for line in cart},
        "user": session.get("user", ""),
        "served": now,
        "servers": [
            Server(name, state, _role(name, now.node, now.backups))
            for name, state in await _states(request)
        ],
        "options": options,
    }
    answer = templates.TemplateResponse(request, "shop.html", context)
    answer.headers["Content-Security-Policy"] = _policy(options.control)
    answer.headers["Cache-Control"] = "no-store"
    return answer


@forms.post("/cart/add")
async def add(request: Request, sku: Field) -> RedirectResponse:
    """One more of a plant."""
    cart = request.session.setdefault("cart", {})
    if sku in BY_SKU:
        cart[sku] = min(cart.get(sku, 0) + 1, MOST)
    return _back(sku if sku in BY_SKU else "")


@forms.post("/cart/remove")
async def remove(request: Request, sku: Field) -> RedirectResponse:
    """One less of a plant."""
    cart = request.session.get("cart", {})
    if cart.get(sku, 0) > 1:
        cart[sku] -= 1
    else:
        cart.pop(sku, None)
    return _back("cart")


@forms.post("/login")
async def log_in(request: Request, name: Field) -> RedirectResponse:
    """Any name will do. The session gets a new ID, as after every log-in, and keeps the cart."""
    if name.strip():
        request.session["user"] = name.strip()
        session_of(request.scope).renew_id()
    return _back()


@forms.post("/logout")
async def log_out(request: Request) -> RedirectResponse:
    """Destroy the session on every server that has a copy."""
    session_of(request.scope).destroy()
    return _back()


def _back(anchor: str = "") -> RedirectResponse:
    return RedirectResponse(f"/#{anchor}" if anchor else "/", status_code=303)


def _role(name: str, node: str, backups: tuple[str, ...]) -> Role:
    if name == node:
        return "serves you"
    return "holds a copy" if name in backups else ""


async def _states(request: Request) -> list[tuple[str, str]]:
    """Name and state of each server; nothing when the supervisor does not answer."""
    options: Options = request.app.state.options
    if not options.control:
        return []
    try:
        async with request.app.state.http.get(f"{options.control}/servers") as response:
            answer = await response.json()
    except (aiohttp.ClientError, TimeoutError):
        return []
    return [(server["name"], server["state"]) for server in answer["servers"]]


def _policy(control: str) -> str:
    """Nothing from anywhere but here; forms and the script may also reach the supervisor."""
    reach = control or "'none'"
    return (
        "default-src 'none'; style-src 'self'; script-src 'self'; img-src 'self';"
        f" connect-src {reach}; form-action 'self' {control};"
        " base-uri 'none'; frame-ancestors 'none'"
    )


# --- the check's interface: a list of tokens in the session


@check.get("")
async def read(request: Request) -> JSONResponse:
    """The tokens of the session."""
    return _tokens(request)


@check.post("/{token}")
async def append(
    request: Request, token: str, idempotency_key: Annotated[str, Header(max_length=64)] = ""
) -> JSONResponse:
    """Append a token. With an Idempotency-Key that the session knows: nothing, a second time."""
    keys = request.session.get("keys", [])
    if idempotency_key and idempotency_key in keys:
        return _tokens(request)
    if idempotency_key:
        request.session["keys"] = [*keys, idempotency_key][-KEYS:]
    _append(request, token)
    return _tokens(request)


@check.put("/{token}")
async def put(request: Request, token: str) -> JSONResponse:
    """Make sure that the token is in the list."""
    if token not in request.session.get("tokens", []):
        _append(request, token)
    return _tokens(request)


def _append(request: Request, token: str) -> None:
    tokens = request.session.setdefault("tokens", [])
    if len(tokens) >= TOKENS or len(token) > 64:
        raise HTTPException(409, "Too many tokens, or one too long.")
    tokens.append(token)


def _tokens(request: Request) -> JSONResponse:
    known = served(request.scope)
    body = {"tokens": request.session.get("tokens", []), "served": asdict(known)}
    return JSONResponse(body, headers={"Cache-Control": "no-store"})
