"""The clients and their sessions: one blocking, one for event loops, the same names."""

from __future__ import annotations

from collections.abc import ItemsView, Iterable, Iterator, Mapping, MutableMapping, ValuesView
from types import TracebackType
from typing import Any, Final

from sessionha.client.talk import Answer, Ask, Steps, Words, Written
from sessionha.client.transport import AsyncTransport, Transport, Trust

TIMEOUT: Final = 10.0
"""Seconds for each part of a request: more than a node's `commit_timeout` + `acquire_timeout`."""

_NOTHING: Final[Mapping[str, Any]] = {}


class RemoteSession(MutableMapping[str, Any]):
    """One session, as a mapping. Nothing is kept here: every use asks the node.

    Values have the types that they have in the application. What is read may be changed by others
    a moment later; `patch`, `increment` and `write` change what is there then. Every method raises
    SessionUnavailable when the session could not be had in time, NoSession when there is none.
    """

    def __init__(self, transport: Transport, words: Words) -> None:
        self._transport = transport
        self._words = words

    def load(self) -> dict[str, Any]:
        """All elements, as they are together; without those that the node cannot read."""
        return self._words.elements(self._send(self._words.load()))

    def fetch(self, name: str) -> Any:
        """One element. Raises KeyError, ElementNotReadable."""
        return self._words.element(self._send(self._words.fetch(name)), name)

    def write(
        self,
        values: Mapping[str, Any] = _NOTHING,
        operations: Mapping[str, Steps] = _NOTHING,
        deletes: Iterable[str] = (),
        *,
        managers: Mapping[str, str] = _NOTHING,
    ) -> Written:
        """Change several elements: all of it is done, or nothing.

        `values` are assigned; `operations` are done to what is there; `managers`: the data
        managers that elements of `operations` must have, or get where they are not there yet.

        Raises:
            KeyError: an element of `operations` or `deletes` is not there.
            OperationRefused: what is there has no place for an operation.
            SessionTooLarge, ElementNotEncodable, StoreFull: see there.
            CommitUnconfirmed: the outcome is unknown.
        """
        ask = self._words.write(values, operations, managers, deletes)
        return self._words.written(self._send(ask))

    def patch(self, name: str, *steps: Iterable[Any], manager: str = "") -> Written:
        """Change something inside an element: `patch("cart", ["append", ["lines"], ["leaf"]])`."""
        managers = {name: manager} if manager else _NOTHING
        return self.write(operations={name: steps}, managers=managers)

    def increment(self, name: str, by: float = 1, *path: str | int) -> Any:
        """Add to a number, 0 at first, and return it. Without a path the element is a counter;
        with one, a map that has the number somewhere inside. Never repeat it after
        CommitUnconfirmed: the first one may count."""
        return self._words.read(self._send(self._words.increment(name, by, path)))["value"]

    def destroy(self) -> Written:
        """End the session for good, on every node."""
        return self._words.written(self._send(self._words.destroy()))

    # --- the mapping ---

    def __getitem__(self, name: str) -> Any:
        return self.fetch(name)

    def __setitem__(self, name: str, value: Any) -> None:
        self.write({name: value})

    def __delitem__(self, name: str) -> None:
        self.write(deletes=[name])

    def __iter__(self) -> Iterator[str]:
        return iter(self.load())

    def __len__(self) -> int:
        return len(self.load())

    def items(self) -> ItemsView[str, Any]:
        """Names and values, of one moment."""
        return self.load().items()

    def values(self) -> ValuesView[Any]:
        """The values, of one moment."""
        return self.load().values()

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Assign several elements, all or nothing."""
        self.write(dict(*args, **kwargs))

    def clear(self) -> None:
        """Delete every element; the session stays."""
        self.write(deletes=list(self.load()))

    def __repr__(self) -> str:
        return "<RemoteSession>"  # never an ID or a value

    def _send(self, ask: Ask) -> Answer:
        return self._transport.send(ask)


class AsyncRemoteSession:
    """One session. The methods are those of `RemoteSession`, to be awaited."""

    def __init__(self, transport: AsyncTransport, words: Words) -> None:
        self._transport = transport
        self._words = words

    async def load(self) -> dict[str, Any]:
        """All elements, as they are together; without those that the node cannot read."""
        return self._words.elements(await self._send(self._words.load()))

    async def fetch(self, name: str) -> Any:
        """One element. Raises KeyError, ElementNotReadable."""
        return self._words.element(await self._send(self._words.fetch(name)), name)

    async def write(
        self,
        values: Mapping[str, Any] = _NOTHING,
        operations: Mapping[str, Steps] = _NOTHING,
        deletes: Iterable[str] = (),
        *,
        managers: Mapping[str, str] = _NOTHING,
    ) -> Written:
        """Change several elements: all of it is done, or nothing. See `RemoteSession.write`."""
        ask = self._words.write(values, operations, managers, deletes)
        return self._words.written(await self._send(ask))

    async def patch(self, name: str, *steps: Iterable[Any], manager: str = "") -> Written:
        """Change something inside an element."""
        managers = {name: manager} if manager else _NOTHING
        return await self.write(operations={name: steps}, managers=managers)

    async def increment(self, name: str, by: float = 1, *path: str | int) -> Any:
        """Add to a number, 0 at first, and return it. See `RemoteSession.increment`."""
        ask = self._words.increment(name, by, path)
        return self._words.read(await self._send(ask))["value"]

    async def destroy(self) -> Written:
        """End the session for good, on every node."""
        return self._words.written(await self._send(self._words.destroy()))

    def __repr__(self) -> str:
        return "<AsyncRemoteSession>"

    async def _send(self, ask: Ask) -> Answer:
        return await self._transport.send(ask)


class Client:
    """Talks to one node's administration. Threads may share it.

    `url`: the base URL of the node's `admin` address; any node of the cluster will do. `token`:
    what `sessionha token --role data` prints. `virtual_server`: the setting of this name of the
    application. `timeout`: seconds for each part of a request. `trust`: for https, what to verify
    the node's certificate with; True: the system's authorities.
    """

    def __init__(
        self,
        url: str,
        token: str,
        *,
        virtual_server: str = "default",
        timeout: float = TIMEOUT,
        trust: Trust = True,
    ) -> None:
        """Raises ValueError: the URL is none."""
        self._transport = Transport(url, timeout, trust)
        self._token = token
        self._virtual_server = virtual_server

    def session(self, session_id: str) -> RemoteSession:
        """The session with this ID, which handlers have as `current_session().id`; no
        node is asked yet. Raises ValueError: it does not look like one."""
        return RemoteSession(self._transport, Words(self._token, session_id, self._virtual_server))

    def close(self) -> None:
        """Close its connections."""
        self._transport.close()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


class AsyncClient:
    """The same for event loops. Tasks of one loop may share it; the arguments are `Client`'s."""

    def __init__(
        self,
        url: str,
        token: str,
        *,
        virtual_server: str = "default",
        timeout: float = TIMEOUT,
        trust: Trust = True,
    ) -> None:
        """Raises ValueError: the URL is none."""
        self._transport = AsyncTransport(url, timeout, trust)
        self._token = token
        self._virtual_server = virtual_server

    def session(self, session_id: str) -> AsyncRemoteSession:
        """The session with this ID; no node is asked yet. Raises ValueError: it is none."""
        words = Words(self._token, session_id, self._virtual_server)
        return AsyncRemoteSession(self._transport, words)

    async def close(self) -> None:
        """Close its connections."""
        await self._transport.close()

    async def __aenter__(self) -> AsyncClient:
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()
