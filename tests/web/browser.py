"""A browser for ASGI applications: it keeps cookies, and speaks to the application directly."""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any

from sessionha.web.asgi import Message, Receive, Scope, Send, SessionMiddleware
from tests.session.fakes import FakeEngine

App = Callable[[Scope, Receive, Send], Awaitable[None]]
Handler = Callable[[Scope], Awaitable[Any]]
KEY = "Zk3n8-2mQpX_7vRbL0wYcT9sHdJfGaUe"


@dataclass
class Answer:
    """A response."""

    status: int
    headers: list[tuple[str, str]]
    body: bytes

    def get(self, name: str) -> str | None:
        """All headers of this name, joined; None without one."""
        return ", ".join(value for key, value in self.headers if key == name) or None

    @property
    def json(self) -> Any:
        """The decoded body."""
        return json.loads(self.body)

    @property
    def cookies(self) -> list[str]:
        """Names of the cookies that are set, in order."""
        return [value.partition("=")[0] for key, value in self.headers if key == "set-cookie"]


@dataclass
class Browser:
    """Sends requests with its jar; `keep` off: it ignores what responses set."""

    app: App
    jar: dict[str, str] = field(default_factory=dict)
    scheme: str = "http"
    keep: bool = True

    async def get(self, path: str = "/", **extra: Any) -> Answer:
        """One request. What the application raises is raised here."""
        sent: list[Message] = []

        async def send(message: Message) -> None:
            sent.append(message)

        await self.app(self.scope("http", path) | extra, receive, send)
        assert sent[0]["type"] == "http.response.start"
        headers = [(k.decode(), v.decode()) for k, v in sent[0]["headers"]]
        self.take(headers)
        body = b"".join(message.get("body", b"") for message in sent[1:])
        return Answer(sent[0]["status"], headers, body)

    def scope(self, kind: str, path: str = "/") -> dict[str, Any]:
        """What a server makes of a request with this jar's cookies."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        headers = [(b"cookie", cookies.encode())] if cookies else []
        return {"type": kind, "path": path, "scheme": self.scheme, "headers": headers}

    def take(self, headers: list[tuple[str, str]]) -> None:
        """Keep the cookies of a response."""
        for name, value in headers:
            if name == "set-cookie" and self.keep:
                morsel = next(iter(SimpleCookie(value).values()))
                if morsel["expires"].endswith("1970 00:00:00 GMT"):
                    self.jar.pop(morsel.key, None)
                else:
                    self.jar[morsel.key] = morsel.value


async def receive() -> Message:
    """Requests have no body here."""
    return {"type": "http.request", "body": b"", "more_body": False}


async def reply(send: Send, value: Any = None, status: int = 200) -> None:
    """A JSON response."""
    await send({"type": "http.response.start", "status": status, "headers": []})
    await send({"type": "http.response.body", "body": json.dumps(value).encode()})


async def shop(scope: Scope, receive: Receive, send: Send) -> None:
    """An application whose paths each do one thing with the session."""
    session: MutableMapping[str, Any] = scope["session"]
    match scope["path"].strip("/").split("/"):
        case ["set", name, value]:
            session[name] = value
        case ["count"]:
            session["n"] = session.get("n", 0) + 1
        case ["clear"]:
            session.clear()
        case ["login"]:
            scope["sessionha"].renew_id()
            session["user"] = "ada"
        case ["bad"]:
            session["x"] = object()
        case ["error"]:
            session["x"] = 1
            return await reply(send, "error", 500)
        case ["static"]:
            return await reply(send, "static")
        case ["plain"]:
            scope["session"] = {"plain": True}
            return await reply(send)
        case _:
            pass
    await reply(send, dict(session))


def middleware(app: App = shop, engine: FakeEngine | None = None, **options: Any) -> App:
    """The middleware around `app`, with an engine that is a dict."""
    return SessionMiddleware(app, KEY, engine=engine or FakeEngine(), **options)
