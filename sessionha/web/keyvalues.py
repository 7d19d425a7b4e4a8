"""Values by key in the memory of the cluster, for what frameworks keep beside sessions.

A value is stored as a session is: with copies, handed over and taken over like one. It is found by
its subject, the key, which every server is asked for.
"""

from __future__ import annotations

import hashlib
import secrets
from contextlib import suppress
from datetime import timedelta
from typing import Final

from sessionha.errors import SessionRevoked, SessionUnavailable
from sessionha.identity import GroupID, SessionKey, encode64, new_group
from sessionha.peer.messages import Batch, Create, Owner, SessionChange
from sessionha.session.session import LONGEST
from sessionha.session.subject import HANDLE_BYTES
from sessionha.state.base import Loaded, State
from sessionha.values.codec import encode
from sessionha.values.managers import VALUE, read
from sessionha.web.asgi import SessionMiddleware
from sessionha.web.base import Engine

Time = int | timedelta

NAME_CHARS: Final = 64
"""Longest name of a store: with a key's hash it is a subject."""

ATTEMPTS: Final = 3
"""Times that a value is written; more than one is needed only while it expires or is deleted."""

_ELEMENT: Final = "value"
_KEY_BYTES: Final = 16
_FOREVER: Final = LONGEST * 1000


class KeyValueStore:
    """Bytes by key, on all servers of a cluster. `door`: whose engine it uses. Stores of different
    names are apart.

    Each call asks every server where the key is, and brings it here: made for what is written once
    and read a few times, by whoever has the key. A value has the limits of a session. While a
    server is away a key that no other server knows raises SessionUnavailable, except where it is
    set.

    Raises:
        ValueError: the name is empty or too long.
    """

    def __init__(self, door: SessionMiddleware, name: str) -> None:
        if not 0 < len(name) <= NAME_CHARS or not name.isascii():
            raise ValueError(f"{name!r} cannot name a store: 1 to {NAME_CHARS} ASCII characters")
        self._door = door
        self._name = name

    async def set(self, key: str, value: bytes, expires_in: Time | None = None) -> None:
        """Store a value for so many seconds; None: until it is deleted.

        Raises:
            SessionTooLarge, StoreFull, SessionUnavailable: see there.
        """
        engine, subject = await self._engine(), self._subject(key)
        puts = ((_ELEMENT, VALUE.name, encode(value, _ELEMENT)),)
        idle = _FOREVER if expires_in is None else _milliseconds(expires_in)
        for _ in range(ATTEMPTS):
            places = (await engine.state.locate(subject)).sessions
            if not places:
                owner = Owner(
                    subject, engine.settings.virtual_server.default,
                    secrets.token_bytes(HANDLE_BYTES),
                )  # fmt: skip
                change = SessionChange(
                    secrets.token_bytes(_KEY_BYTES), create=Create(idle, 0), puts=puts, owner=owner
                )
                await engine.state.commit(Batch(new_group(), (change,)), fresh=True)
                return
            change = SessionChange(places[0][1], puts=puts, idle_timeout=idle)
            try:
                await engine.state.commit(Batch(places[0][0], (change,)), fresh=False)
            except SessionRevoked:
                continue  # it has expired, or was deleted
            for group, other in places[1:]:  # begun by two servers at the same time
                await _destroyed(engine.state, group, other)
            return
        raise SessionUnavailable("the value is deleted again and again; nothing was changed")

    async def get(self, key: str, renew_for: Time | None = None) -> bytes | None:
        """The value; None without one. `renew_for`: it lasts so many seconds from now on, if it
        does not last until it is deleted.

        Raises:
            SessionUnavailable: see the class.
        """
        engine = await self._engine()
        found = await self._find(engine, key)
        if found is None:
            return None
        group, session, loaded = found
        if renew_for is not None and loaded.idle_timeout < _FOREVER:
            change = SessionChange(session, idle_timeout=_milliseconds(renew_for))
            try:
                await engine.state.commit(Batch(group, (change,)), fresh=False)
            except SessionRevoked:
                return None
        value = read(*loaded.elements[_ELEMENT])
        assert isinstance(value, bytes), "nothing else is stored"
        return value

    async def delete(self, key: str) -> None:
        """Forget the value, if there is one.

        Raises:
            SessionUnavailable, StoreFull: see there.
        """
        state = (await self._engine()).state
        for group, session in (await state.locate(self._subject(key))).sessions:
            await _destroyed(state, group, session)

    async def exists(self, key: str) -> bool:
        """Whether there is a value. Raises as `get` does."""
        return await self._find(await self._engine(), key) is not None

    async def expires_in(self, key: str) -> int | None:
        """Seconds until the value expires; None: never, or there is none. Raises as `get` does."""
        found = await self._find(await self._engine(), key)
        if found is None or found[2].idle_timeout >= _FOREVER:
            return None
        return found[2].idle_left // 1000

    async def _engine(self) -> Engine:
        return await self._door.running_engine()

    def _subject(self, key: str) -> str:
        """Under which a key's value is found: keys may be secrets, and of any length."""
        return f"{self._name}:{encode64(hashlib.sha256(key.encode()).digest())}"

    async def _find(self, engine: Engine, key: str) -> tuple[GroupID, SessionKey, Loaded] | None:
        places = await engine.state.locate(self._subject(key))
        for group, session in places.sessions:
            loaded = await engine.state.find(group, session, None)
            if loaded is not None:
                return group, session, loaded
        if places.unreachable:
            raise SessionUnavailable("servers that are away may have the value")
        return None


async def _destroyed(state: State, group: GroupID, session: SessionKey) -> None:
    with suppress(SessionRevoked):  # by somebody else
        await state.commit(Batch(group, (SessionChange(session, destroy=True),)), fresh=False)


def _milliseconds(time: Time) -> int:
    seconds = time.total_seconds() if isinstance(time, timedelta) else time
    return max(1, min(int(seconds * 1000), _FOREVER))
