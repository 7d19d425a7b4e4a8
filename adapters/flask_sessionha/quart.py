"""sessionha for Quart: `from flask_sessionha.quart import Session`, then `Session(app)`."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from quart import Response, has_websocket_context, request, session
from quart.sessions import SessionInterface as QuartInterface

from flask_sessionha.configuration import NO_KEY, permanent_by_default
from flask_sessionha.cookies import refuse, tell
from flask_sessionha.session import ServerSession, UnavailableSession, session_of
from flask_sessionha.shared import CANARY, Extension, Interface, canary_of, check
from sessionha import Exchange, InvalidSettings, SessionUnavailable, StoreFull, refusal

if TYPE_CHECKING:
    from quart import Quart

__all__ = ["QuartSession", "Session", "SessionInterface"]


class QuartSession(ServerSession):
    """The session of a request or websocket of Quart."""

    async def commit(self) -> None:
        """Commit now, and not only with the response: for websockets. See `Session.commit`."""
        await self.sessionha.commit()

    async def siblings(self) -> Any:
        """Where the session's subject is logged in. See `Session.siblings`."""
        return await self.sessionha.siblings()

    async def revoke(self, sibling: str) -> Any:
        """End one session of the subject. See `Session.revoke`."""
        return await self.sessionha.revoke(sibling)

    async def revoke_others(self) -> Any:
        """End the others of the subject. See `Session.revoke_others`."""
        return await self.sessionha.revoke_others()

    async def revoke_all(self) -> Any:
        """Log the subject out everywhere. See `Session.revoke_all`."""
        return await self.sessionha.revoke_all()


class SessionInterface(Interface, QuartInterface):
    """Takes the place of Quart's own; as `flask_sessionha.SessionInterface`."""

    session_class = QuartSession

    async def open_session(self, app: Quart, request: Any) -> Any:
        """See Quart."""
        opened = self.open(app)
        if opened is None:
            return None
        door, promise = opened
        exchange = await door.aenter(_scope(request), promise)
        session = session_of(
            self.session_class, exchange, outlasts=permanent_by_default(app.config)
        )
        if self._former and not exchange.opted_out and isinstance(session, QuartSession):
            await self._take_over(app, request, session)
        if has_websocket_context():
            exchange.begun()  # Quart accepts websockets without cookies
        return session

    async def _take_over(self, app: Quart, request: Any, session: QuartSession) -> None:
        cookie = request.cookies.get(self.get_cookie_name(app)) if session.new else None
        if not cookie or has_websocket_context():
            return
        for former in self._former:
            found = await asyncio.to_thread(former.read, app, cookie)
            if found is not None:
                subject = self._subject_of(found)
                session.take_over(found, subject, partial(former.forget, app, cookie))
                return

    async def save_session(self, app: Quart, session: Any, response: Any) -> None:
        """See Quart. `response`: None after a websocket. What an application still changes while
        the body is sent is committed then."""
        if isinstance(session, UnavailableSession):
            return
        assert isinstance(session, QuartSession), "it was opened here"
        exchange = session.exchange
        if response is None:
            try:
                session.settle()
                await exchange.aend()
            finally:
                exchange.leave()
            return
        try:
            if exchange.told is None:
                session.settle()
                await exchange.acommit()
                if self._former:
                    await asyncio.to_thread(session.taken_over)
        except (SessionUnavailable, StoreFull) as error:
            refuse(response, refusal(error))
            tell(self, app, session, response, refused=True)
            exchange.leave()
            return
        except BaseException:
            exchange.leave()
            raise
        tell(self, app, session, response)
        body = getattr(response, "response", None)
        if _goes_on(body):
            response.response = _Closing(body, exchange)
        else:
            exchange.leave()


class Session(Extension["Quart"]):
    """Gives an application sessionha's sessions: `Session(app)`, or `Session().init_app(app)`; as
    `flask_sessionha.Session`."""

    def init_app(self, app: Quart) -> None:
        """Give this application sessions; its configuration should be complete."""
        interface = SessionInterface(**self._given)
        check(interface, app)
        interface.open(app)
        app.session_interface = interface  # type: ignore[assignment]
        app.extensions["sessionha"] = interface
        app.register_error_handler(SessionUnavailable, _unavailable)
        life = _Life(interface, app)
        app.before_serving(life.start)
        app.after_serving(life.stop)
        app.before_request(life.probe)
        app.before_request(_canary)


class _Life:
    """The engine's life in that of the server."""

    def __init__(self, interface: SessionInterface, app: Quart) -> None:
        self._interface = interface
        self._app = app

    async def start(self) -> None:
        """Become a member of the cluster before the first request. Raises InvalidSettings, also
        where there is still no secret key: from here on the configuration is complete."""
        opened = self._interface.open(self._app)
        if opened is None:
            raise InvalidSettings([NO_KEY])
        await opened[0].astart()

    async def stop(self) -> None:
        """Hand over, and say goodbye."""
        door = self._interface.doors.known(self._app)
        if door is not None:
            await door.astop()

    async def probe(self) -> Response | None:
        """Answer probes at `health_path`, before anything else of the application."""
        door = self._interface.doors.known(self._app)
        if door is None or not door.health_paths:
            return None
        answer = await door.ahealth(f"{request.root_path}{request.path}")
        if answer is None:
            return None
        about = {"cache-control": "no-store", "content-type": "text/plain; charset=utf-8"}
        return Response(answer[1], answer[0], about)


def _canary() -> Response | None:
    """Answers canaries of `sessionha doctor`, before anything else of the application."""
    query: bytes = request.query_string
    if not query.startswith(CANARY):
        return None
    environ = {
        "QUERY_STRING": query.decode("latin-1"),
        "PATH_INFO": f"{request.root_path}{request.path}",
        "HTTP_COOKIE": request.headers.get("Cookie", ""),
        "HTTP_SESSIONHA_HOPS": request.headers.get("Sessionha-Hops", ""),
    }
    answer = canary_of(session, environ)
    return None if answer is None else Response(*answer)


class _Closing:
    """The body of a response, whose sending is the end of an exchange."""

    def __init__(self, body: Any, exchange: Exchange) -> None:
        self._body = body
        self._exchange = exchange

    async def __aenter__(self) -> Any:
        return await self._body.__aenter__()

    async def __aexit__(self, *error: Any) -> None:
        try:
            await self._body.__aexit__(*error)
            await self._exchange.aend()
        finally:
            self._exchange.leave()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._body, name)


def _goes_on(body: Any) -> bool:
    """Whether code of the application runs while the body is sent."""
    from quart.wrappers.response import IterableBody  # noqa: PLC0415 -- not among public names

    return isinstance(body, IterableBody)


def _scope(request: Any) -> dict[str, Any]:
    """What a door needs of a request's or websocket's scope; that of a test client lacks some."""
    headers = [
        (name.lower().encode("latin-1"), value.encode("latin-1"))
        for name, value in request.headers.items()
    ]
    path = request.root_path + request.path
    return {"scheme": request.scheme, "path": path, "headers": headers}


async def _unavailable(error: Any) -> Response:
    answer = refusal(error)
    return Response(answer.body, answer.status, dict(answer.headers))
