"""Flask-Login: a log-in renews the session's ID, and says whose session it is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import session

from flask_sessionha.session import ServerSession

if TYPE_CHECKING:
    from flask import Flask


def follow_logins(app: Flask) -> None:
    """Follow the log-ins of this application, where Flask-Login is installed."""
    try:
        from flask_login import (  # noqa: PLC0415
            user_loaded_from_cookie,
            user_logged_in,
            user_logged_out,
        )
    except ModuleNotFoundError:
        return
    user_logged_in.connect(_logged_in, app)
    user_loaded_from_cookie.connect(_logged_in, app)  # its remember cookie logs in as well
    user_logged_out.connect(_logged_out, app)


def _logged_in(_sender: Any, *, user: Any, **_: Any) -> None:
    found = _session()
    if found is not None:
        found.regenerate()
        found.subject = str(user.get_id())


def _logged_out(_sender: Any, **_: Any) -> None:
    found = _session()
    if found is not None:
        found.subject = None
        found.regenerate()  # what the browser keeps opens nothing of who was logged in


def _session() -> ServerSession | None:
    found: Any = session
    current = found._get_current_object()
    return current if isinstance(current, ServerSession) else None
