"""The data API: a session's elements, one message each, at the address of what it changes.

A program with the token of the role `data` and a session's ID does what a handler of the
application could do, through the same state manager, and with the same limits.
"""

from __future__ import annotations

import hmac
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple

from starlette.requests import Request
from starlette.responses import Response

from sessionha.admin import bodies
from sessionha.admin.changes import Changes, shown
from sessionha.engine import Engine
from sessionha.errors import (
    NoSession,
    RequestRefused,
    SessionError,
    SessionHAError,
    SessionRevoked,
    SessionTooLarge,
    SessionUnavailable,
    StoreFull,
    WrongManager,
)
from sessionha.identity import Position, group_of, position_of, session_key
from sessionha.peer.messages import Batch
from sessionha.session.headers import COPIES, POSITION, SESSION, VIRTUAL_SERVER
from sessionha.session.session import Known
from sessionha.state.base import Loaded, Receipt
from sessionha.values.address import DataAddress

PREFIX: Final = "/v1/data"
METHODS: Final = ("GET", "PUT", "PATCH", "POST", "DELETE")

_NO_STORE: Final = {"cache-control": "no-store"}

_STATUS: Final[tuple[tuple[type[SessionHAError], int], ...]] = (
    (SessionUnavailable, 503),
    (StoreFull, 503),
    (SessionRevoked, 404),
    (SessionTooLarge, 413),
    (WrongManager, 409),
    (bodies.TooMuch, 413),
    (bodies.NotAcceptable, 406),
    (bodies.UnknownFormat, 415),
    (RequestRefused, 400),
    (SessionError, 422),
    (SessionHAError, 500),
)
"""Status of each error; the first that fits."""


def endpoint(engine: Engine) -> Callable[[Request], Awaitable[Response]]:
    """The endpoint of everything below `PREFIX`."""

    async def data(request: Request) -> Response:
        try:
            return await _answer(engine, request)
        except SessionHAError as error:
            return _failure(error)
        except KeyError as missing:
            about = {"element": missing.args[0]}
            return _error(404, "NoElement", "nothing is there; nothing was changed", about)

    return data


async def _answer(engine: Engine, request: Request) -> Response:
    address = _address(request)
    verbs = _OF_ELEMENTS if address.manager else _OF_SESSIONS
    verb = verbs.get("GET" if request.method == "HEAD" else request.method)
    if verb is None:
        allowed = ", ".join(verbs)
        error = _error(405, "RequestRefused", f"here is only {allowed}")
        error.headers["allow"] = allowed
        return error
    session_id = _proven(engine, request, address)
    floor = _floor(request)
    body = await bodies.read(request, engine.settings.session_bytes)
    async with _visiting(engine, address, floor) as visited:
        loaded = visited.loaded
        known = Known(session_id, address.key, loaded.elements, owner=loaded.owner)
        asked = _Asked(request, address, body, visited, Changes(known, engine.settings.depth))
        return await verb(asked)


class _Visited(NamedTuple):
    """A session that is held here, until the answer."""

    engine: Engine
    address: DataAddress
    loaded: Loaded
    alone: bool

    def touch(self) -> None:
        """A message is a use of the session, as a request is."""
        if self.loaded.touch_due:
            self.engine.state.touch(self.address.group, self.address.key)

    async def commit(self, changes: Changes) -> Receipt:
        """Commit as a request does; where nothing differs, tell where everything is."""
        change, held = changes.change(), self.loaded.held
        if change is None:
            self.touch()
            return Receipt(held.position, held.holders, len(held.holders) - 1)
        batch = Batch(self.address.group, (change,), held.position)
        state = self.engine.state
        return await state.commit(batch, fresh=False, floor=held.position, alone=self.alone)


class _Asked(NamedTuple):
    """One message, and the session that it is about."""

    request: Request
    address: DataAddress
    body: Any
    visited: _Visited
    changes: Changes


@asynccontextmanager
async def _visiting(
    engine: Engine, address: DataAddress, floor: Position | None
) -> AsyncIterator[_Visited]:
    """The session, acquired if need be, and in its turn where requests take turns."""
    state, group, key = engine.state, address.group, address.key
    turn = await state.turn(group, key)
    try:
        loaded = await state.find(group, key, floor)
        if loaded is None:
            raise _no_session()
        yield _Visited(engine, address, loaded, turn is not None)
    finally:
        if turn is not None:
            turn.end()


# --- what is asked, and by whom ------------------------------------------------------------------


def _address(request: Request) -> DataAddress:
    path: bytes = request.scope.get("raw_path") or b""
    text = path.partition(b"?")[0].decode("latin-1")
    try:
        return DataAddress.parse(text[text.index(PREFIX) + len(PREFIX) :])
    except ValueError as error:
        raise RequestRefused(str(error)) from None


def _proven(engine: Engine, request: Request, address: DataAddress) -> str:
    """The session's ID, which must be that of the address.

    Raises:
        NoSession: it is not; in the words of a session that does not exist.
    """
    session_id = request.headers.get(SESSION, "")
    server = request.headers.get(VIRTUAL_SERVER, engine.settings.virtual_server.default)
    try:
        expected = group_of(session_id) + session_key(session_id, server)
    except ValueError:
        expected = b""
    if not hmac.compare_digest(expected, address.group + address.key):
        raise _no_session()
    return session_id


def _no_session() -> NoSession:
    return NoSession(
        "no session is at this address, or the header Sessionha-Session has not its ID (and"
        " Sessionha-Virtual-Server its virtual server, where that is not the node's)"
    )


def _floor(request: Request) -> Position | None:
    text = request.headers.get(POSITION)
    if text is None:
        return None
    try:
        view, attempt, version, node = text.split(".", 3)
        found = position_of(int(view), int(attempt), int(version), node)
    except ValueError:
        found = None
    if found is None:
        raise RequestRefused("Sessionha-Position is not what an answer had in it")
    return found


# --- the verbs -----------------------------------------------------------------------------------


async def _show(asked: _Asked) -> Response:
    """GET of a session: its elements, or those that the query names."""
    loaded = asked.visited.loaded
    wanted = asked.request.query_params.getlist("element")
    names = wanted or loaded.elements
    found, unreadable = shown({name: loaded.elements[name] for name in names})
    asked.visited.touch()
    answer = {
        "elements": found,
        "unreadable": unreadable,
        "age": loaded.age / 1000,
        "idle_left": loaded.idle_left / 1000,
        "life_left": None if loaded.life_left is None else loaded.life_left / 1000,
    }
    return bodies.answer(asked.request, answer, _headers(loaded.held.position))


async def _get(asked: _Asked) -> Response:
    address, changes = asked.address, asked.changes
    changes.manager(address.element)
    changes.check(address.manager, address.element)
    value = changes.value(address.element, address.path)
    asked.visited.touch()
    return bodies.answer(asked.request, value, _headers(asked.visited.loaded.held.position))


async def _put(asked: _Asked) -> Response:
    address, changes = asked.address, asked.changes
    value = _needed(asked.body, "the value")
    if address.path:
        changes.operate(address.manager, address.element, [["set", [], value]], address.path)
    else:
        changes.put(address.manager, address.element, value)
    return await _written(asked)


async def _patch(asked: _Asked) -> Response:
    address = asked.address
    operation = _needed(asked.body, "the operation: a list of steps")
    asked.changes.operate(address.manager, address.element, operation, address.path)
    return await _written(asked)


async def _increment(asked: _Asked) -> Response:
    """POST: what the number is then, but for what others add at the same moment."""
    address, by = asked.address, _amount(asked.body)
    value = asked.changes.increment(address.manager, address.element, by, address.path)
    return await _written(asked, {"value": value})


async def _delete(asked: _Asked) -> Response:
    address = asked.address
    asked.changes.remove(address.manager, address.element, address.path)
    return await _written(asked)


async def _destroy(asked: _Asked) -> Response:
    asked.changes.destroy()
    return await _written(asked)


async def _write(asked: _Asked) -> Response:
    """PATCH of a session: several elements, all of them or none."""
    batch, changes = _batch(asked.body), asked.changes
    for name, value in batch.values.items():
        changes.assign(name, value)
    for name, operation in batch.operations.items():
        manager = batch.managers.get(name) or changes.manager(name)
        changes.operate(manager, name, operation)
    for name in batch.deletes:
        changes.delete(name)
    return await _written(asked)


class _Batch(NamedTuple):
    values: Mapping[str, Any]
    operations: Mapping[str, Any]
    managers: Mapping[str, str]
    deletes: list[str]


def _batch(body: Any) -> _Batch:
    if type(body) is not dict or not body.keys() <= set(_Batch._fields):
        raise RequestRefused(f"the body must be a map with some of {', '.join(_Batch._fields)}")
    maps = [body.get(name, {}) for name in _Batch._fields[:3]]
    deletes = body.get("deletes", [])
    if not all(type(each) is dict for each in maps) or type(deletes) is not list:
        raise RequestRefused("`values`, `operations`, `managers` must be maps, `deletes` a list")
    values, operations, managers = maps
    names = [*values, *operations, *deletes]
    if not all(type(name) is str for name in (*names, *managers.values())):
        raise RequestRefused("names of elements and of data managers are texts")
    if len(set(names)) != len(names):
        raise RequestRefused("an element may be named once")
    return _Batch(values, operations, managers, deletes)


def _needed(body: Any, what: str) -> Any:
    if body is bodies.NOTHING:
        raise RequestRefused(f"the body must be {what}")
    return body


def _amount(body: Any) -> Any:
    if type(body) is dict and body.keys() == {"increment"}:
        return body["increment"]
    raise RequestRefused('the body must be {"increment": <a number>}')


_Verb = Callable[[_Asked], Awaitable[Response]]

_OF_SESSIONS: Final[dict[str, _Verb]] = {"GET": _show, "PATCH": _write, "DELETE": _destroy}

_OF_ELEMENTS: Final[dict[str, _Verb]] = {
    "GET": _get,
    "PUT": _put,
    "PATCH": _patch,
    "POST": _increment,
    "DELETE": _delete,
}


# --- answers -------------------------------------------------------------------------------------


async def _written(asked: _Asked, more: Mapping[str, Any] | None = None) -> Response:
    if more is not None:
        bodies.check(asked.request, more)  # before it is done
    receipt = await asked.visited.commit(asked.changes)
    headers = _headers(receipt.position) | {COPIES: str(receipt.copies)}
    answer = {"position": headers[POSITION], "copies": receipt.copies, **(more or {})}
    return bodies.answer(asked.request, answer, headers)


def _headers(position: Position) -> dict[str, str]:
    epoch, version = position
    return {**_NO_STORE, POSITION: f"{epoch.view}.{epoch.attempt}.{version}.{epoch.node}"}


def _failure(error: SessionHAError) -> Response:
    status = next(status for kind, status in _STATUS if isinstance(error, kind))
    public = next(kind for kind in type(error).__mro__ if kind.__module__ == "sessionha.errors")
    response = _error(status, public.__name__, str(error), vars(error))
    if status == 503:
        retry = getattr(error, "retry_after", SessionUnavailable.retry_after)
        response.headers["retry-after"] = str(retry)
    return response


def _error(status: int, name: str, words: str, about: Mapping[str, Any] | None = None) -> Response:
    content = {"error": name, "message": words, "about": dict(about or {})}
    # Escaped: a name that is told back may be no Unicode text.
    return Response(json.dumps(content), status, _NO_STORE, bodies.JSON)
