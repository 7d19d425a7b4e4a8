"""One small application behind both doors, and a client that sends the headers it is told to."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from wsgiref.util import setup_testing_defaults

from sessionha.session.session import Session
from sessionha.web.asgi import Message, Receive, Scope, Send, SessionMiddleware, session_from
from sessionha.web.wsgi import WSGISessionMiddleware
from tests.session.fakes import FakeEngine
from tests.web.browser import KEY, receive, reply

if TYPE_CHECKING:
    from wsgiref.types import StartResponse

Headers = Mapping[str, str]


@dataclass
class Answer:
    """A response."""

    status: int
    headers: list[tuple[str, str]]
    json: Any

    def get(self, name: str) -> str | None:
        """All headers of this name, joined; None without one."""
        found = [value for key, value in self.headers if key.lower() == name]
        return ", ".join(found) or None

    @property
    def cookie(self) -> str:
        """What the client sends back of the cookies that are set."""
        found = [value.partition(";")[0] for key, value in self.headers if key == "set-cookie"]
        return "; ".join(found)


Ask = Callable[[str, Headers], Awaitable[Answer]]
Door = Callable[..., Ask]


def act(session: Session, path: str) -> Any:
    """What the paths of the application do with the session."""
    match path.strip("/").split("/")[-1]:
        case "count":
            session["n"] = session.get("n", 0) + 1
        case "renew":
            session.renew_id()
        case "cart":
            cart = session.secondary("cart")
            cart["m"] = cart.get("m", 0) + 1
            return dict(cart)
        case "leave":
            session.destroy()
            return None
        case "static":
            return "static"
        case _:
            pass
    return dict(session)


async def _asgi(scope: Scope, receive: Receive, send: Send) -> None:
    await reply(send, act(session_from(scope), scope["path"]))


def _wsgi(environ: dict[str, Any], start_response: StartResponse) -> Iterable[bytes]:
    body = json.dumps(act(environ["sessionha.session"], environ["PATH_INFO"])).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]


def asgi(engine: FakeEngine, **options: Any) -> Ask:
    """Requests through the ASGI middleware."""
    app = SessionMiddleware(_asgi, KEY, engine=engine, **options)

    async def ask(path: str, headers: Headers) -> Answer:
        raw = [(name.lower().encode(), value.encode()) for name, value in headers.items()]
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        scope = {"type": "http", "path": path, "scheme": "http", "headers": raw}
        await app(scope, receive, send)
        told = [(name.decode(), value.decode()) for name, value in sent[0]["headers"]]
        body = b"".join(message.get("body", b"") for message in sent[1:])
        status = sent[0]["status"]
        return Answer(status, told, json.loads(body) if status == 200 else body.decode())

    return ask


def wsgi(engine: FakeEngine, **options: Any) -> Ask:
    """Requests through the WSGI middleware."""
    app = WSGISessionMiddleware(_wsgi, KEY, engine=engine, **options)

    async def ask(path: str, headers: Headers) -> Answer:
        asked = {"PATH_INFO": path, "SCRIPT_NAME": ""}
        for name, value in headers.items():
            asked["HTTP_" + name.upper().replace("-", "_")] = value
        asked.setdefault("HTTP_HOST", "")
        setup_testing_defaults(asked)
        started: list[tuple[str, list[tuple[str, str]]]] = []

        def start_response(status: str, headers: Any, exc_info: Any = None, /) -> Any:
            started.append((status, headers))
            return lambda data: None

        body = b"".join(app(asked, start_response))
        status = int(started[0][0][:3])
        return Answer(status, started[0][1], json.loads(body) if status == 200 else body.decode())

    return ask


DOORS: tuple[Door, ...] = (asgi, wsgi)
