"""Flask's `SessionInterface` over an exchange: opened with the request, saved with the response."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

from flask.sessions import SessionInterface as FlaskInterface
from flask.sessions import SessionMixin

from flask_sessionha.configuration import permanent_by_default
from flask_sessionha.cookies import refuse, tell
from flask_sessionha.session import FlaskSession, UnavailableSession, session_of
from flask_sessionha.shared import Interface
from sessionha import SessionUnavailable, StoreFull, refusal

if TYPE_CHECKING:
    from flask import Flask, Request, Response


class SessionInterface(Interface, FlaskInterface):
    """Takes the place of Flask's own. `former`, `subject_of`: see `Session`; the further keywords
    are settings of sessionha, and come before those in `app.config` and in the environment."""

    session_class = FlaskSession

    def open_session(self, app: Flask, request: Request) -> SessionMixin | None:
        """See Flask. None, so that Flask complains at the first use, while there is no key."""
        opened = self.open(app)
        if opened is None:
            return None
        door, promise = opened
        exchange = door.enter(request.environ, promise)
        session = session_of(
            self.session_class, exchange, outlasts=permanent_by_default(app.config)
        )
        if self._former and not exchange.opted_out and isinstance(session, FlaskSession):
            self._take_over(app, request, session)
        return session

    def _take_over(self, app: Flask, request: Request, session: FlaskSession) -> None:
        cookie = request.cookies.get(self.get_cookie_name(app)) if session.new else None
        if not cookie:
            return
        for former in self._former:
            found = former.read(app, cookie)
            if found is not None:
                subject = self._subject_of(found)
                session.take_over(found, subject, partial(former.forget, app, cookie))
                return

    def save_session(self, app: Flask, session: SessionMixin, response: Response) -> None:
        """See Flask. What an application still changes while the body is sent, or when the
        response is closed, is committed then."""
        if isinstance(session, UnavailableSession):
            return
        assert isinstance(session, FlaskSession), "it was opened here"
        exchange = session.exchange
        try:
            if exchange.told is None:
                session.settle()
                exchange.commit()
                session.taken_over()
        except (SessionUnavailable, StoreFull) as error:
            refuse(response, refusal(error))
            tell(self, app, session, response, refused=True)
            exchange.leave()
            return
        except BaseException:
            exchange.leave()
            raise
        tell(self, app, session, response)
        if goes_on(response):
            response.call_on_close(exchange.close)
        else:
            exchange.leave()


def goes_on(response: Response) -> bool:
    """Whether code of the application may run until the response is closed."""
    if response.direct_passthrough:  # a file, which the server closes without the response
        return False
    return response.is_streamed or bool(response._on_close)
