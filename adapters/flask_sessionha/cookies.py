"""Writes what an exchange tells into a response, in the words of Flask's configuration."""

from __future__ import annotations

from functools import lru_cache
from typing import Any, Final, NamedTuple

from werkzeug.http import dump_cookie

from flask_sessionha.session import ServerSession
from sessionha import Cookie, Refusal

_VALUE: Final = "sessionha-value"


class Attributes(NamedTuple):
    """What the configuration says of cookies at the time of a response."""

    domain: str | None
    path: str
    secure: bool
    samesite: str | None
    partitioned: bool
    httponly: bool


def attributes_of(interface: Any, app: Any) -> Attributes:
    """By the methods of the interface, which applications may override."""
    return Attributes(
        interface.get_cookie_domain(app),
        interface.get_cookie_path(app),
        interface.get_cookie_secure(app),
        interface.get_cookie_samesite(app),
        interface.get_cookie_partitioned(app),
        interface.get_cookie_httponly(app),
    )


def tell(
    interface: Any, app: Any, session: ServerSession, response: Any, *, refused: bool = False
) -> None:
    """Set the cookies and headers of an exchange whose changes are committed; `refused`: only of
    what was committed before the rest was not."""
    exchange = session.exchange
    assert exchange.told is not None, "committed"
    cookies, headers = exchange.told
    known = refused or any(cookie.kind == "session" for cookie in cookies)
    if not known and _is_due(interface, app, session):
        again = exchange.cookie()  # without news
        cookies = [*cookies, again] if again is not None else cookies
    if session.logged_out and not known:
        cookies = [*cookies, Cookie(interface.get_cookie_name(app), None, "session")]
    if cookies or session.accessed or exchange.vary:
        fields = exchange.vary or "Cookie"
        if any(name.lower() == "vary" for name, _ in response.headers):
            response.vary.update(fields.split(", "))
        else:
            response.headers.add("Vary", fields)
    if cookies:
        _set(interface, app, session, response, cookies)
    for name, value in headers:
        response.headers[name] = value


def _is_due(interface: Any, app: Any, session: ServerSession) -> bool:
    """Whether the cookie must be told though its value is what it was: where Flask tells it for the
    sake of its expiry, or with other attributes. Flask tells it after each change, because the data
    is in it."""
    if not interface.should_set_cookie(app, session):
        return False
    if session.permanent or session.was_permanent:
        return True
    return bool(interface.attributes.get(app) != attributes_of(interface, app))


def _set(
    interface: Any, app: Any, session: ServerSession, response: Any, cookies: list[Cookie]
) -> None:
    said = interface.attributes[app] = attributes_of(interface, app)
    secure = said.secure or session.exchange.secure
    expires = interface.get_expiration_time(app, session)
    for cookie in cookies:
        own = said._replace(secure=secure)
        if cookie.kind == "route":
            own = own._replace(path="/", httponly=True)
            if expires is None and cookie.value is not None:
                header = _header(cookie.name, own).replace(_VALUE, cookie.value)
                response.headers.add("Set-Cookie", header)
                continue
        if cookie.value is None:
            response.delete_cookie(cookie.name, **own._asdict())
        else:
            response.set_cookie(cookie.name, cookie.value, expires=expires, **own._asdict())


@lru_cache(64)
def _header(name: str, said: Attributes) -> str:
    """The header of a cookie of this name, which changes with each write: werkzeug makes one."""
    return dump_cookie(name, _VALUE, **said._asdict())


def refuse(response: Any, answer: Refusal) -> None:
    """Let a response be the refusal instead; what it would have sent is closed."""
    close = getattr(response.response, "close", None)
    if close is not None:
        close()
    response.direct_passthrough = False
    response.headers.clear()
    response.status_code = answer.status
    response.set_data(answer.body)
    for name, value in answer.headers:
        response.headers[name] = value
