"""Sessions for Litestar: `request.session`, a parameter of handlers, and what SessionAuth wants."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, NoReturn

from litestar import Request
from litestar.config.app import AppConfig
from litestar.connection import ASGIConnection
from litestar.di import NamedDependency, Provide
from litestar.middleware import DefineMiddleware
from litestar.middleware.session.base import BaseBackendConfig, BaseSessionBackend
from litestar.plugins import InitPlugin
from litestar.serialization import decode_json, encode_json
from litestar.stores.base import Store
from litestar.types import ASGIApp, Empty, Message, Receive, Scope, Send
from litestar.utils import get_serializer_from_scope

from sessionha import KeyValueStore, Session, SessionMiddleware, SessionUnavailable, session_from

__all__ = ["ClusterStore", "CurrentSession", "SessionPlugin"]

CurrentSession = NamedDependency[Session]
"""The session, in handlers and dependencies that have a parameter `session: CurrentSession`."""

Connection = ASGIConnection[Any, Any, Any, Any]

_INNER: Final = "sessionha.litestar"
"""Where a request carries the application that is inside our middleware on its route."""


class SessionPlugin(InitPlugin):
    """Gives each request and websocket `request.session`, and handlers that ask for it
    `session: CurrentSession`, element by element.

        Litestar(route_handlers, plugins=[SessionPlugin(secret_key=…)])

    Takes the arguments of `sessionha.SessionMiddleware`, which it is made of; the engine starts
    and stops with the application. In the place of Litestar's own session middleware.

    Raises:
        InvalidSettings: what is wrong with the arguments and settings, every mistake.
    """

    def __init__(self, secret_key: object, **arguments: Any) -> None:
        self.door = SessionMiddleware(_inner, secret_key, **arguments)
        """The middleware that does it all."""
        if self.door.invalid is not None:
            raise self.door.invalid

    def store(self, name: str) -> ClusterStore:
        """A store of Litestar's, for `stores={"cache": plugin.store("cache")}`.

        Raises:
            ValueError: the name is empty or too long.
        """
        return ClusterStore(KeyValueStore(self.door, name))

    @property
    def backend_config(self) -> BackendConfig:
        """What Litestar's `SessionAuth` wants to know: `session_backend_config`."""
        return BackendConfig(self.door.terms.attributes.name)

    def on_app_init(self, app_config: AppConfig) -> AppConfig:
        """Put the middleware outside every other one, and what belongs to it beside them."""
        app_config.middleware = [self._around, *app_config.middleware]
        app_config.lifespan = [*app_config.lifespan, self.door.lifespan]
        app_config.dependencies = {
            "session": Provide(_provided, sync_to_thread=False), **app_config.dependencies
        }  # fmt: skip
        app_config.exception_handlers = {
            SessionUnavailable: _raised_again, **app_config.exception_handlers
        }  # fmt: skip
        app_config.signature_types = [*app_config.signature_types, Session]
        return app_config

    def _around(self, app: ASGIApp) -> ASGIApp:
        """One middleware for all routes: Litestar makes one for each."""

        async def around(scope: Scope, receive: Receive, send: Send) -> None:
            scope[_INNER] = app  # type: ignore[typeddict-unknown-key]
            await self.door(scope, receive, send)  # type: ignore[arg-type]

        return around


class ClusterStore(Store):
    """What `KeyValueStore` has, as Litestar asks for it. `SessionPlugin.store` makes it."""

    __slots__ = ("_values",)

    def __init__(self, values: KeyValueStore) -> None:
        self._values = values

    async def set(
        self, key: str, value: str | bytes, expires_in: int | timedelta | None = None
    ) -> None:
        """Store a value for so many seconds; None: until it is deleted."""
        data = value.encode() if isinstance(value, str) else value
        await self._values.set(key, data, expires_in)

    async def get(self, key: str, renew_for: int | timedelta | None = None) -> bytes | None:
        """The value, None without one; with `renew_for`, and if it expires at all, it lasts so many
        seconds from now on."""
        return await self._values.get(key, renew_for)

    async def delete(self, key: str) -> None:
        """Forget the value, if there is one."""
        await self._values.delete(key)

    async def delete_all(self) -> None:
        """Refuse: nobody knows the keys.

        Raises:
            NotImplementedError: always.
        """
        raise NotImplementedError(
            "values are known by the hashes of their keys: give the store another name, and what is"
            " in it expires"
        )

    async def exists(self, key: str) -> bool:
        """Whether there is a value."""
        return await self._values.exists(key)

    async def expires_in(self, key: str) -> int | None:
        """Seconds until the value expires; None: never, or there is none."""
        return await self._values.expires_in(key)


class _Backend(BaseSessionBackend["BackendConfig"]):
    """Has nothing to do: the plugin's middleware finds and commits sessions."""

    def get_session_id(self, connection: Connection) -> str | None:
        return session_from(connection.scope).id

    async def store_in_message(
        self,
        scope_session: object,
        message: Message,
        connection: Connection,
    ) -> None:
        pass

    async def load_from_connection(self, connection: Connection) -> dict[str, Any]:
        return connection.session


class BackendConfig(BaseBackendConfig[_Backend]):
    """The sessions that are there already, where Litestar wants to add its middleware."""

    _backend_class = _Backend

    def __init__(self, key: str) -> None:
        self.key = key
        """The name of the cookie, for OpenAPI."""

    @property
    def middleware(self) -> DefineMiddleware:
        """Adds nothing."""
        return DefineMiddleware(_nothing_around)


def _nothing_around(app: ASGIApp, backend: object) -> ASGIApp:
    del backend
    return app


async def _inner(scope: Any, receive: Any, send: Any) -> None:
    """What is inside the middleware: the application of the request's route."""

    async def told(message: Message) -> None:
        """Before the session is committed: Litestar's ways to exchange it whole."""
        values = scope["session"]
        if values is Empty:
            scope["session"] = {}
        elif not isinstance(values, Mapping):
            scope["session"] = _plain(values, scope)
        await send(message)

    await scope.pop(_INNER)(scope, receive, told)


def _plain(values: Any, scope: Scope) -> Any:
    """A model in the place of the session, as Litestar's own sessions store it."""
    return decode_json(encode_json(values, get_serializer_from_scope(scope)))


def _raised_again(request: Request[Any, Any, Any], error: SessionUnavailable) -> NoReturn:
    """Litestar would answer 500; the middleware around it answers 503 with Retry-After."""
    del request
    raise error


def _provided(scope: Scope) -> Session:
    return session_from(scope)
