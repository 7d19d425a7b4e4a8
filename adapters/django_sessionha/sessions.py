"""The session engine: `SESSION_ENGINE = "django_sessionha.sessions"`.

A session's data is a dict that sessionha compares with what is stored: so a change inside a value
is noticed, and what parallel requests change is brought together. The session key is an ID that
verifies itself; nobody can choose one.
"""

from __future__ import annotations

from collections.abc import Coroutine
from contextlib import suppress
from typing import Any, Final, NamedTuple, TypeVar

from django.contrib.sessions.backends.base import SessionBase, UpdateError
from django.contrib.sessions.serializers import JSONSerializer

from django_sessionha import signals  # noqa: F401 -- who logs in is noted wherever the engine is used
from django_sessionha.configuration import door, promise
from sessionha import MixedExchange, Session, SessionRevoked

T = TypeVar("T")


class Former(NamedTuple):
    """The session of another engine that a request has brought."""

    old: Any
    """That engine's store."""
    data: dict[str, Any]
    successor: str | None
    """The key of the session that has followed it already."""


EXPIRY: Final = "_session_expiry"
"""Where `set_expiry` keeps its value, among the session's data."""


class SessionStore(SessionBase):
    """A session of Django's, in a request or by its key. Every method has a native `a…` twin.

    `subject`: whose it is, see `sessionha.Session.subject`; set at log-in, stored by the next save.
    """

    def __init__(self, session_key: str | None = None) -> None:
        super().__init__(session_key)
        self._exchange: MixedExchange | None = None
        self._awaits_load = False
        self._subject: str | None = None
        self._names_subject = False
        self.flushed = False
        """Whether this request has ended the session on purpose."""
        self.renewed = False
        """Whether this request has given it a new key."""
        self.former: Former | None = None
        """What it follows: it ends with this one."""
        self.opted_out = False
        """Whether the request shall have no session (`exclude`): nothing of it is kept."""

    # --- where it is ---

    def enter(self, exchange: MixedExchange) -> None:
        """The middleware has found the session already, or has found none."""
        self._exchange = exchange
        self._awaits_load = True

    @property
    def exchange(self) -> MixedExchange | None:
        """Where the session is committed; None: it was not looked for so far."""
        return self._exchange

    def _found(self) -> MixedExchange | None:
        """What the middleware has found, the first time."""
        if self._awaits_load:
            self._awaits_load = False
            return self._exchange
        return None

    def begin_with(self, data: dict[str, Any]) -> None:
        """Begin a session with this data, in the place of whatever the key named."""
        self._session_key = None
        self._session_cache = data
        self.accessed = self.modified = True

    # --- whose it is ---

    @property
    def subject(self) -> str | None:
        """Whose session it is."""
        if self._names_subject:
            return self._subject
        self._data()
        return None if self._exchange is None else self._exchange.session.subject

    @subject.setter
    def subject(self, subject: str | None) -> None:
        self._subject, self._names_subject = subject, True
        self.modified = True

    def complete(self, work: Coroutine[Any, Any, T]) -> T:
        """The result of a coroutine of sessionha's session:
        `request.session.complete(current_session().siblings())`.

        Raises:
            SessionError: what the coroutine raises, or the engine does not answer.
        """
        return self._engaged(work).wait(work)

    async def acomplete(self, work: Coroutine[Any, Any, T]) -> T:
        """The same on an event loop, which is not the one that such coroutines run on."""
        return await self._engaged(work).awaited(work)

    def _engaged(self, work: Coroutine[Any, Any, T]) -> MixedExchange:
        if self._exchange is None:
            work.close()
            raise LookupError("the session was not looked for so far: read or store something")
        return self._exchange

    # --- loading ---

    def _data(self) -> dict[str, Any]:
        data: dict[str, Any] = self._get_session()  # type: ignore[attr-defined]
        return data

    async def _adata(self) -> dict[str, Any]:
        data: dict[str, Any] = await self._aget_session()  # type: ignore[attr-defined]
        return data

    def load(self) -> dict[str, Any]:
        """The session's data. Raises SessionUnavailable: no server that has it answers."""
        if self.opted_out:
            return {}
        found = self._found() or door().find(self.session_key, promise(), self._exchange)
        return self._loaded(found)

    async def aload(self) -> dict[str, Any]:
        """See `load`."""
        if self.opted_out:
            return {}
        found = self._found() or await door().find_async(
            self.session_key, promise(), self._exchange
        )
        return self._loaded(found)

    def _loaded(self, exchange: MixedExchange) -> dict[str, Any]:
        session = exchange.session
        if session.failure is not None:
            raise session.refused()
        known = session.known  # of several cookies of the name one may be good
        self._session_key = known.session_id if known is not None else None
        if hasattr(self, "_session_cache"):  # somebody else looks what is stored
            return self._decoded(session)
        self._exchange = exchange
        return self._decoded(session)

    # --- saving ---

    def save(self, must_create: bool = False) -> None:
        """Commit the session, and wait for its copies.

        Raises:
            UpdateError: it has ended meanwhile.
            SessionError: see `sessionha.Session.commit`.
        """
        if must_create or self.session_key is None:
            self.create()
            return
        if self.opted_out:
            return
        data = self._data()
        exchange = self._to_update(data)
        try:
            if not exchange.save():
                exchange.session.touch()
                exchange.save()
                self._must_exist(self.exists(self.session_key))
        except SessionRevoked as error:
            raise UpdateError from error
        self._saved(exchange)

    async def asave(self, must_create: bool = False) -> None:
        """See `save`."""
        if must_create or self.session_key is None:
            await self.acreate()
            return
        if self.opted_out:
            return
        data = await self._adata()
        exchange = self._to_update(data)
        try:
            if not await exchange.asave():
                exchange.session.touch()
                await exchange.asave()
                self._must_exist(await self.aexists(self.session_key))
        except SessionRevoked as error:
            raise UpdateError from error
        self._saved(exchange)

    def _to_update(self, data: dict[str, Any]) -> MixedExchange:
        if self.session_key is None or self._exchange is None:
            raise UpdateError
        self._hand_over(self._exchange.session, data)
        return self._exchange

    def _must_exist(self, exists: bool) -> None:
        if not exists:
            raise UpdateError

    def create(self) -> None:
        """Begin a session with the data that there is, perhaps none, and store it."""
        if self.opted_out:
            self._session_key = door().new_id(promise())  # of no session
            return
        exchange = self._vacant() or door().find(None, promise(), self._exchange)
        self._begin(exchange)
        exchange.save()
        self._created(exchange)

    async def acreate(self) -> None:
        """See `create`."""
        if self.opted_out:
            self._session_key = door().new_id(promise())
            return
        exchange = self._vacant() or await door().find_async(None, promise(), self._exchange)
        self._begin(exchange)
        await exchange.asave()
        self._created(exchange)

    def _vacant(self) -> MixedExchange | None:
        """The request's, if it has no session; what begins there is on the client's servers."""
        exchange = self._exchange
        if exchange is None or not exchange.may_begin:
            return None
        self._awaits_load = False
        return exchange

    def _begin(self, exchange: MixedExchange) -> None:
        self._hand_over(exchange.session, getattr(self, "_session_cache", {}))

    def _created(self, exchange: MixedExchange) -> None:
        self._exchange = exchange
        self.modified = True
        self._saved(exchange)

    def _hand_over(self, session: Session, data: dict[str, Any]) -> None:
        """Let the session be what this one is."""
        if session.failure is not None:
            raise session.refused()
        self._give(session, data)
        age = self.get_expiry_age(expiry=data.get(EXPIRY))
        if age <= 0:
            session.destroy()
            return
        if session.new or not data:
            session.begin()
        session.idle_timeout = age
        if self._names_subject:
            session.subject = self._subject

    def _saved(self, exchange: MixedExchange) -> None:
        session = exchange.session
        self._names_subject = False
        self._session_key = session.id or door().new_id(promise())  # it has expired at once
        if session.id is not None:
            self._session_cache = self._kept(session)

    # --- the forms of the data ---

    def _decoded(self, session: Session) -> dict[str, Any]:
        """The data of a session."""
        data: dict[str, Any] = session.as_dict()
        if self.serializer is JSONSerializer:
            return data
        return {name: self._read(value) for name, value in data.items()}

    def _give(self, session: Session, data: dict[str, Any]) -> None:
        """Let this be the data of a session."""
        if self.serializer is not JSONSerializer:
            data = {name: self._written(value) for name, value in data.items()}
        if not session.is_face(data):
            session.adopt(data)

    def _kept(self, session: Session) -> dict[str, Any]:
        """The data from now on: what is changed in it is seen."""
        if self.serializer is JSONSerializer:
            return session.as_dict()
        return self._session_cache if hasattr(self, "_session_cache") else {}

    def _written(self, value: object) -> tuple[str, bytes]:
        """A value as the project's own serializer stores it."""
        return self._mark, self.serializer().dumps(value)

    def _read(self, value: Any) -> Any:
        match value:
            case (self._mark, bytes(stored)):
                return self.serializer().loads(stored)
        return value  # stored before the project had this serializer

    @property
    def _mark(self) -> str:
        return f"{self.serializer.__module__}.{self.serializer.__qualname__}"

    @property
    def changed(self) -> bool:
        """Whether something differs from what is stored, also inside a value, which `modified`
        does not tell."""
        exchange = self._exchange
        if exchange is None or not hasattr(self, "_session_cache"):
            return False
        data, session = self._session_cache, exchange.session
        if self.serializer is JSONSerializer:
            return session.is_face(data) and exchange.changed
        return self.session_key is not None and self._decoded(session) != data

    # --- ending ---

    def delete(self, session_key: str | None = None) -> None:
        """End the session with this key, by default this one, on every server."""
        key = self.session_key if session_key is None else session_key
        if key is None:
            return
        exchange = door().find(key, promise(), self._exchange)
        if self._is_to_end(exchange):
            with suppress(SessionRevoked):
                exchange.save()

    async def adelete(self, session_key: str | None = None) -> None:
        """See `delete`."""
        key = self.session_key if session_key is None else session_key
        if key is None:
            return
        exchange = await door().find_async(key, promise(), self._exchange)
        if self._is_to_end(exchange):
            with suppress(SessionRevoked):
                await exchange.asave()

    def _is_to_end(self, exchange: MixedExchange) -> bool:
        session = exchange.session
        if session.failure is not None:
            raise session.refused()
        if session.new:
            return False
        session.destroy()
        return True

    def flush(self) -> None:
        """End the session. What is put in later begins another one."""
        exchange, key = self._exchange, self.session_key
        self._forget()
        if self.former is not None:
            self.former.old.delete(self.former.old.session_key)
        if key is not None and exchange is None and not self.opted_out:
            exchange = door().find(key, promise(), self._exchange)
        if exchange is not None and self._is_flushed(exchange):
            with suppress(SessionRevoked):
                exchange.save()

    async def aflush(self) -> None:
        """See `flush`."""
        exchange, key = self._exchange, self.session_key
        self._forget()
        if self.former is not None:
            await self.former.old.adelete(self.former.old.session_key)
        if key is not None and exchange is None and not self.opted_out:
            exchange = await door().find_async(key, promise(), self._exchange)
        if exchange is not None and self._is_flushed(exchange):
            with suppress(SessionRevoked):
                await exchange.asave()

    def _is_flushed(self, exchange: MixedExchange) -> bool:
        """Whether there is a session to be ended."""
        self._exchange = exchange
        return self._is_to_end(exchange)

    def _forget(self) -> None:
        self.clear()
        self._session_key = None
        self._names_subject = self._awaits_load = False
        self.flushed = True

    def cycle_key(self) -> None:
        """Give the session a new key; the old one is never valid again."""
        data = self._data()
        self.renewed = True
        if self.session_key is None or self._exchange is None:
            self.create()
            return
        exchange = self._to_renew(data)
        try:
            exchange.save()
        except SessionRevoked as error:
            raise UpdateError from error
        self._created(exchange)

    async def acycle_key(self) -> None:
        """See `cycle_key`."""
        data = await self._adata()
        self.renewed = True
        if self.session_key is None or self._exchange is None:
            await self.acreate()
            return
        exchange = self._to_renew(data)
        try:
            await exchange.asave()
        except SessionRevoked as error:
            raise UpdateError from error
        self._created(exchange)

    def _to_renew(self, data: dict[str, Any]) -> MixedExchange:
        exchange = self._to_update(data)
        exchange.session.renew_id()
        return exchange

    # --- keys ---

    def exists(self, session_key: str | None) -> bool:
        """Whether there is a session with this key."""
        return bool(session_key) and self._is_there(
            door().find(session_key, promise(), self._exchange)
        )

    async def aexists(self, session_key: str | None) -> bool:
        """See `exists`."""
        if not session_key:
            return False
        return self._is_there(await door().find_async(session_key, promise(), self._exchange))

    def _is_there(self, exchange: MixedExchange) -> bool:
        session = exchange.session
        if session.failure is not None:
            raise session.refused()
        return not session.new

    def _get_new_session_key(self) -> str:
        return door().new_id(promise())

    async def _aget_new_session_key(self) -> str:
        return door().new_id(promise())

    @classmethod
    def clear_expired(cls) -> None:
        """Servers sweep what has expired from their memory all the time."""

    @classmethod
    async def aclear_expired(cls) -> None:
        """See `clear_expired`."""
