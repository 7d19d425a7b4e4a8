"""Takes the sessions of another engine over, each once: nobody is logged out by the change.

`SESSIONHA = {"migrate_from": "django.contrib.sessions.backends.cache"}` for as long as sessions of
the old engine may live; then the setting and the old store can go.
"""

from __future__ import annotations

from contextlib import suppress
from importlib import import_module
from typing import Any, Final

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import UpdateError

from django_sessionha.configuration import door, old_engine, promise
from django_sessionha.sessions import EXPIRY, SessionStore

MOVED: Final = "_sessionha_moved"
"""Says in an old session that it was taken over, and what expiry it had."""

GRACE: Final = 60
"""Seconds that an old session lives on: parallel requests of its browser bring its cookie too."""


def take_over(store: SessionStore, key: str | None) -> None:
    """Begin with the data of an old session, if this is its key."""
    if (old := _old(key)) is None or not (data := dict(old.items())):
        return
    if _begin(store, data):
        old[MOVED] = data.get(EXPIRY)
        old.set_expiry(GRACE)
        with suppress(UpdateError):  # it ended just now
            old.save()


async def atake_over(store: SessionStore, key: str | None) -> None:
    """See `take_over`."""
    if (old := _old(key)) is None or not (data := dict(await old.aitems())):
        return
    if _begin(store, data):
        await old.aset(MOVED, data.get(EXPIRY))
        await old.aset_expiry(GRACE)
        with suppress(UpdateError):
            await old.asave()


def _old(key: str | None) -> Any:
    engine = old_engine()
    if not engine or not key or door().is_ours(key, promise()):
        return None
    return import_module(engine).SessionStore(key)


def _begin(store: SessionStore, data: dict[str, Any]) -> bool:
    """Whether nobody has taken the session over before; it ends soon then, and parallel requests
    still find it."""
    first = MOVED not in data
    if not first:
        data.pop(EXPIRY, None)
        if (expiry := data.pop(MOVED)) is not None:
            data[EXPIRY] = expiry
    store.begin_with(data)
    if SESSION_KEY in data:
        store.subject = f"user:{data[SESSION_KEY]}"
    return first
