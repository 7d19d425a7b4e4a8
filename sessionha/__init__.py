"""HTTP session state that survives the death of the server that holds it: the public names."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from sessionha.errors import (
        CommitUnconfirmed,
        ElementNotEncodable,
        ElementNotReadable,
        InvalidSettings,
        SessionBusy,
        SessionError,
        SessionHAError,
        SessionRevoked,
        SessionTooLarge,
        SessionUnavailable,
        StaleSession,
        StoreFull,
    )
    from sessionha.session import DictSession, Session
    from sessionha.session.carrier import current_session
    from sessionha.session.visit import Cookie
    from sessionha.web.asgi import SessionMiddleware, session_from
    from sessionha.web.door import Door, Exchange, Promise, Refusal, refusal
    from sessionha.web.keyvalues import KeyValueStore
    from sessionha.web.lifespan import asgi
    from sessionha.web.mixed import MixedDoor, MixedExchange
    from sessionha.web.optout import bots, preflights
    from sessionha.web.workers import start
    from sessionha.web.wsgi import WSGISessionMiddleware

__version__ = "0.1.0"

__all__ = [
    "CommitUnconfirmed",
    "Cookie",
    "DictSession",
    "Door",
    "ElementNotEncodable",
    "ElementNotReadable",
    "Exchange",
    "InvalidSettings",
    "KeyValueStore",
    "MixedDoor",
    "MixedExchange",
    "Promise",
    "Refusal",
    "Session",
    "SessionBusy",
    "SessionError",
    "SessionHAError",
    "SessionMiddleware",
    "SessionRevoked",
    "SessionTooLarge",
    "SessionUnavailable",
    "StaleSession",
    "StoreFull",
    "WSGISessionMiddleware",
    "__version__",
    "asgi",
    "bots",
    "current_session",
    "preflights",
    "refusal",
    "session_from",
    "start",
]

_ELSEWHERE = {
    "Cookie": "sessionha.session.visit",
    "DictSession": "sessionha.session",
    "Door": "sessionha.web.door",
    "Exchange": "sessionha.web.door",
    "KeyValueStore": "sessionha.web.keyvalues",
    "MixedDoor": "sessionha.web.mixed",
    "MixedExchange": "sessionha.web.mixed",
    "Promise": "sessionha.web.door",
    "Refusal": "sessionha.web.door",
    "Session": "sessionha.session",
    "SessionMiddleware": "sessionha.web.asgi",
    "WSGISessionMiddleware": "sessionha.web.wsgi",
    "asgi": "sessionha.web.lifespan",
    "bots": "sessionha.web.optout",
    "current_session": "sessionha.session.carrier",
    "preflights": "sessionha.web.optout",
    "refusal": "sessionha.web.door",
    "session_from": "sessionha.web.asgi",
    "start": "sessionha.web.workers",
}


if not TYPE_CHECKING:  # a type checker that saw it would accept every misspelt name

    def __getattr__(name: str) -> object:
        """Import a public name at its first use, so that `import sessionha` stays cheap."""
        if name.startswith("_") or name not in __all__:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_ELSEWHERE.get(name, "sessionha.errors")), name)
        globals()[name] = value
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
