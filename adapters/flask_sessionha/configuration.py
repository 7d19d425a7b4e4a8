"""What an application's configuration says of sessions, in Flask's and Flask-Session's words."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any, Final, Protocol
from weakref import WeakKeyDictionary

from sessionha import Door, InvalidSettings, Promise

log = logging.getLogger("sessionha.flask")

PREFIX: Final = "SESSIONHA_"
"""Of the keys in `app.config` that are settings of sessionha, as in the environment."""

FLASK_SESSION: Final = "SESSION_TYPE"
"""Flask-Session does nothing without it, so whoever comes from there has it."""

NO_KEY: Final = "`secret_key` is empty: `sessionha secret` prints a good one"

PERMANENT: Final = "SESSION_PERMANENT"

IGNORED: Final = frozenset(
    {
        FLASK_SESSION,
        "SESSION_USE_SIGNER",
        "SESSION_KEY_PREFIX",
        "SESSION_ID_LENGTH",
        "SESSION_SERIALIZATION_FORMAT",
        "SESSION_REDIS",
        "SESSION_MEMCACHED",
        "SESSION_CACHELIB",
        "SESSION_FILE_DIR",
        "SESSION_FILE_THRESHOLD",
        "SESSION_FILE_MODE",
        "SESSION_MONGODB",
        "SESSION_MONGODB_DB",
        "SESSION_MONGODB_COLLECT",
        "SESSION_SQLALCHEMY",
        "SESSION_SQLALCHEMY_TABLE",
        "SESSION_SQLALCHEMY_SEQUENCE",
        "SESSION_SQLALCHEMY_SCHEMA",
        "SESSION_SQLALCHEMY_BIND_KEY",
        "SESSION_CLEANUP_N_REQUESTS",
        "SESSION_DYNAMODB",
        "SESSION_DYNAMODB_TABLE",
    }
)
"""Settings of Flask-Session that say where and how it stores."""


Exclude = Iterable[str | Callable[[Any], object]]
"""Paths and predicates of requests that have no session, as sessionha's middlewares take them."""


class Application(Protocol):
    """What Flask and Quart have in common."""

    config: Any
    secret_key: Any

    @property
    def permanent_session_lifetime(self) -> timedelta: ...


class Doors:
    """The door of each application that an interface serves. Applications change their
    configuration as long as they like; each request is given what it says then."""

    def __init__(self, exclude: Exclude, given: Mapping[str, object]) -> None:
        self._exclude = exclude
        self._given = given
        self._doors: WeakKeyDictionary[Application, Door] = WeakKeyDictionary()

    def known(self, app: Application) -> Door | None:
        """The application's door, None before its first request, or `open`."""
        return self._doors.get(app)

    def open(self, app: Application, name: str) -> tuple[Door, Promise] | None:
        """The door, and what the cookie `name` promises; None while there is no secret key.

        Raises:
            InvalidSettings: every mistake.
        """
        if not app.secret_key:
            return None
        fallbacks = app.config.get("SECRET_KEY_FALLBACKS") or ()
        keys = (app.secret_key, *fallbacks)
        door = self._doors.get(app)
        if door is None:
            promise = Promise(keys, name)
            door = self._doors[app] = Door(
                promise, exclude=self._exclude, **{**settings_of(app.config), **self._given}
            )
        if door.settings.origins.get("idle_timeout", "default") != "default":
            return door, Promise(keys, name)
        return door, Promise(keys, name, int(app.permanent_session_lifetime.total_seconds()))


def settings_of(config: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of sessionha in an application's configuration."""
    return {
        key[len(PREFIX) :].lower(): value for key, value in config.items() if key.startswith(PREFIX)
    }


def permanent_by_default(config: Mapping[str, Any]) -> bool:
    """Whether sessions of which nobody says anything outlast the browser: Flask says no,
    Flask-Session yes."""
    return bool(config.get(PERMANENT, FLASK_SESSION in config))


def warn_of_ignored(config: Mapping[str, Any]) -> None:
    """Say once which settings of Flask-Session mean nothing any more."""
    if found := sorted(IGNORED.intersection(config)):
        log.warning(
            "%s: settings of Flask-Session that sessionha does not need, and ignores; sessions lie"
            " in the memory of the servers",
            ", ".join(found),
        )


def check_cookie(name: str, *, secure: bool, path: str, domain: str | None) -> None:
    """Raise InvalidSettings where browsers would refuse the cookie for the sake of its name."""
    problems = []
    prefix = name.lower()
    if prefix.startswith(("__host-", "__secure-")) and not secure:
        problems.append(f"the cookie name {name} asks for `SESSION_COOKIE_SECURE` = True")
    if prefix.startswith("__host-") and (path != "/" or domain):
        problems.append(
            f"the cookie name {name} asks for `SESSION_COOKIE_PATH` / and no"
            " `SESSION_COOKIE_DOMAIN`"
        )
    if problems:
        raise InvalidSettings(problems)
