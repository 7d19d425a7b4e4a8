"""What Django's settings say: the door to this project's sessions, and what it promises now."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Mapping
from importlib import import_module
from typing import Any, Final

from django.conf import settings
from django.core.signals import setting_changed

from sessionha import InvalidSettings, MixedDoor, Promise

SETTING: Final = "SESSIONHA"
"""The dict of Django's settings with sessionha's: `SESSIONHA = {"nodes": …, "secret": …}`."""

OWN: Final = ("migrate_from", "partitioned")
"""What may stand there and is this adapter's own."""

_NAMES: Final = (
    SETTING,
    "SECRET_KEY",
    "SECRET_KEY_FALLBACKS",
    "SESSION_COOKIE_AGE",
    "SESSION_COOKIE_NAME",
)
"""Settings that are remembered, because every request asks for them."""

_making = threading.Lock()
_door: MixedDoor | None = None
_promise: Promise | None = None
_own: tuple[str, bool] | None = None


def promise() -> Promise:
    """What the project promises its clients."""
    global _promise  # noqa: PLW0603 -- settings are global too
    if _promise is None:
        keys = (settings.SECRET_KEY, *settings.SECRET_KEY_FALLBACKS)
        # With an age of 0 a session that is not given another ends at once, see `SessionStore`.
        age = max(1, int(settings.SESSION_COOKIE_AGE))
        _promise = Promise(keys, settings.SESSION_COOKIE_NAME, age)
    return _promise


def door() -> MixedDoor:
    """The door of this process; it is made at the first call, and starts with the first session.

    Raises:
        InvalidSettings: what is wrong with the settings, every mistake.
    """
    global _door  # noqa: PLW0603
    if _door is None:
        with _making:
            if _door is None:
                _door = _made_door()
    return _door


def _made_door() -> MixedDoor:
    problems = [*_old_engine_problems()]
    try:
        made = MixedDoor(promise(), **keywords())
    except InvalidSettings as error:
        raise InvalidSettings([*error.problems, *problems]) from None
    if problems:
        raise InvalidSettings(problems)
    return made


def _old_engine_problems() -> Iterable[str]:
    """What would give every browser with an old cookie a 500."""
    if not (engine := old_engine()):
        return
    remedy = "name the module that SESSION_ENGINE named before, or leave it out"
    try:
        found = import_module(engine)
    except (ImportError, TypeError, ValueError) as error:  # these two: an odd or relative name
        yield f"`migrate_from` {engine!r} cannot be imported ({error}): {remedy}"
        return
    if not hasattr(found, "SessionStore"):
        yield f"`migrate_from` {engine!r} is no session engine, it has no SessionStore: {remedy}"


def keywords() -> dict[str, Any]:
    """The settings of sessionha that stand in Django's, in upper case or in lower case."""
    return {name: value for name, value in _given().items() if name not in OWN}


def old_engine() -> str:
    """The engine whose sessions are taken over, a module; empty: none."""
    return _owned()[0]


def is_partitioned() -> bool:
    """Whether cookies are `Partitioned`: apart for each site that embeds this one."""
    return _owned()[1]


def _owned() -> tuple[str, bool]:
    global _own  # noqa: PLW0603
    if _own is None:
        given = _given()
        _own = str(given.get("migrate_from") or ""), bool(given.get("partitioned", False))
    return _own


def _given() -> Mapping[str, Any]:
    found = getattr(settings, SETTING, {})
    return {str(name).lower(): value for name, value in found.items()}


def _forget(*, setting: str, **_: object) -> None:
    """Tests override settings; with others of ours the process has another node."""
    global _door, _promise, _own  # noqa: PLW0603
    if setting in _NAMES:
        _promise = _own = None
    if setting == SETTING:
        _door = None


setting_changed.connect(_forget, dispatch_uid="django_sessionha")
