"""Takes the sessions of another engine over, each once: nobody is logged out by the change.

`SESSIONHA = {"migrate_from": "django.contrib.sessions.backends.cache"}` for as long as sessions of
the old engine may live; then the setting and the old store can go.

1. `former_of` asks the old engine for what a request's cookie names; `follow` begins with it.
2. `settle`, when the new session is stored, notes its key in the old one, which ends soon after: a
   request that brings the old cookie until then joins the new session, if that lives still.
"""

from __future__ import annotations

from importlib import import_module
from typing import Any, Final

from django.contrib.auth import SESSION_KEY
from django.contrib.sessions.backends.base import UpdateError

from django_sessionha.configuration import door, old_engine, promise
from django_sessionha.sessions import Former, SessionStore
from sessionha import SessionError

MOVED: Final = "_sessionha_moved"
"""Says in an old session that it was taken over: the keys of the new sessions, nearly always one.
Requests at the same time may each have begun one."""

GRACE: Final = 60
"""Seconds that an old session lives on: parallel requests of its browser bring its cookie too."""


def former_of(key: str | None) -> Former | None:
    """The old session with this key; None: there is none, or what followed it has ended."""
    if (old := _old(key)) is None or not (data := dict(old.items())):
        return None
    keys = data.pop(MOVED, ())
    if not all(_may_live(each) for each in keys):
        return None
    return Former(old, data, keys[0] if keys else None)


async def aformer_of(key: str | None) -> Former | None:
    """See `former_of`."""
    if (old := _old(key)) is None or not (data := dict(await old.aitems())):
        return None
    keys = data.pop(MOVED, ())
    for each in keys:
        if not await _amay_live(each):
            return None
    return Former(old, data, keys[0] if keys else None)


def follow(store: SessionStore, former: Former) -> None:
    """Let the request's session be that which follows an old one."""
    store.former = former
    if former.successor is None:
        store.begin_with(former.data)
        if SESSION_KEY in former.data:
            store.subject = f"user:{former.data[SESSION_KEY]}"


def settle(store: SessionStore) -> None:
    """The session is stored, so let the old one end: soon, or at once where its key was renewed.

    Raises:
        UpdateError: the old one was ended meanwhile, by a log-out; so is the new one.
    """
    if (key := _beginner(store)) is None:
        return
    old = _again(store)
    if store.renewed:
        old.delete(old.session_key)
        return
    try:
        if not (data := dict(old.items())):
            raise UpdateError
        old[MOVED] = [*data.get(MOVED, ()), key]
        old.set_expiry(GRACE)
        old.save()
    except UpdateError:
        store.delete()
        raise


async def asettle(store: SessionStore) -> None:
    """See `settle`."""
    if (key := _beginner(store)) is None:
        return
    old = _again(store)
    if store.renewed:
        await old.adelete(old.session_key)
        return
    try:
        if not (data := dict(await old.aitems())):
            raise UpdateError
        await old.aset(MOVED, [*data.get(MOVED, ()), key])
        await old.aset_expiry(GRACE)
        await old.asave()
    except UpdateError:
        await store.adelete()
        raise


def _old(key: str | None) -> Any:
    engine = old_engine()
    if not engine or not key or door().is_ours(key, promise()):
        return None
    return import_module(engine).SessionStore(key)


def _beginner(store: SessionStore) -> str | None:
    """The key of a session that has followed an old one in this very request."""
    former = store.former
    if former is None or former.successor is not None or store.flushed:
        return None
    return store.session_key


def _again(store: SessionStore) -> Any:
    """The old session as it is stored now."""
    assert store.former is not None, "it follows one"
    return _old(store.former.old.session_key)


def _may_live(key: str) -> bool:
    try:
        return SessionStore().exists(key)
    except SessionError:
        return True  # the request will be told when it uses the session


async def _amay_live(key: str) -> bool:
    try:
        return await SessionStore().aexists(key)
    except SessionError:
        return True
