"""Writes what an exchange tells into a response, in the words of Flask's configuration."""

from __future__ import annotations

from typing import Any

from flask_sessionha.session import ServerSession
from sessionha import Cookie, Refusal


def tell(
    interface: Any, app: Any, session: ServerSession, response: Any, *, refused: bool = False
) -> None:
    """Set the cookies and headers of an exchange whose changes are committed; `refused`: only of
    what was committed before the rest was not."""
    exchange = session.exchange
    assert exchange.told is not None, "committed"
    cookies, headers = exchange.told
    known = refused or any(cookie.kind == "session" for cookie in cookies)
    if not known and interface.should_set_cookie(app, session):
        again = exchange.cookie()  # without news, as Flask does
        cookies = [*cookies, again] if again is not None else cookies
    if cookies or session.accessed or exchange.vary:
        fields = exchange.vary or "Cookie"
        if "Vary" in response.headers:
            response.vary.update(fields.split(", "))
        else:
            response.headers["Vary"] = fields
    if cookies:
        secure = interface.get_cookie_secure(app) or exchange.secure
        _set(interface, app, session, response, cookies, secure=secure)
    for name, value in headers:
        response.headers[name] = value


def _set(
    interface: Any,
    app: Any,
    session: ServerSession,
    response: Any,
    cookies: list[Cookie],
    *,
    secure: bool,
) -> None:
    attributes = {
        "domain": interface.get_cookie_domain(app),
        "secure": secure,
        "samesite": interface.get_cookie_samesite(app),
        "partitioned": interface.get_cookie_partitioned(app),
    }
    expires = interface.get_expiration_time(app, session)
    for cookie in cookies:
        own = cookie.kind == "session"
        path = interface.get_cookie_path(app) if own else "/"
        httponly = interface.get_cookie_httponly(app) if own else True
        if cookie.value is None:
            response.delete_cookie(cookie.name, path=path, httponly=httponly, **attributes)
        else:
            response.set_cookie(
                cookie.name, cookie.value, path=path, httponly=httponly, expires=expires,
                **attributes,
            )  # fmt: skip


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
