"""Sessions as FastAPI dependencies that OpenAPI shows; `sessionha.SessionMiddleware` has them."""

from __future__ import annotations

from typing import Annotated, Final, NoReturn

from fastapi import HTTPException, Security, WebSocketException
from fastapi.openapi.models import APIKey
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

from sessionha import Session, session_from

__all__ = ["CurrentSession", "LoggedInSession", "RequiredSession", "SessionCookie"]

_POLICY_VIOLATION: Final = 1008  # the close code of websockets that 401 would be for requests


class SessionCookie(SecurityBase):
    """A dependency that gives a handler its session, and OpenAPI the cookie that it is found by.

    `name`: that of the middleware's `session_cookie`, and of the scheme in OpenAPI. `required`:
    who has no session is answered with 401. `subject`: so is whose session has no subject, that is,
    who has not logged in. A websocket is refused in their place.

    Raises (when it is called):
        LookupError: no SessionMiddleware is around the application.
        SessionUnavailable: the session cannot be had, and whether there is one is asked for here.
    """

    def __init__(
        self, name: str = "session", *, required: bool = True, subject: bool = False
    ) -> None:
        about = "The session. Its cookie is set when something is stored in it."
        self.model = APIKey.model_validate({"in": "cookie", "name": name, "description": about})
        self.scheme_name = name
        self.required = required or subject
        self.subject = subject

    async def __call__(self, connection: HTTPConnection) -> Session:
        session = session_from(connection)
        if self.required and session.new and not session:
            _refuse(connection, "no session")
        if self.subject and session.subject is None:
            _refuse(connection, "not logged in")
        return session


def _refuse(connection: HTTPConnection, why: str) -> NoReturn:
    if connection.scope["type"] == "websocket":
        raise WebSocketException(_POLICY_VIOLATION, why)
    raise HTTPException(401, why, {"WWW-Authenticate": "Session"})


CurrentSession = Annotated[Session, Security(SessionCookie(required=False))]
"""The session, which may be a new one: `async def cart(session: CurrentSession)`."""

RequiredSession = Annotated[Session, Security(SessionCookie())]
"""The session of a client that has one; others are answered with 401."""

LoggedInSession = Annotated[Session, Security(SessionCookie(subject=True))]
"""The session of a client whose session has a `subject`; others are answered with 401."""
