"""What is said to the data API, and what its answers mean: without a socket."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple, TypeVar
from urllib.parse import quote

from sessionha import errors
from sessionha.errors import (
    CommitUnconfirmed,
    ElementNotReadable,
    RequestRefused,
    SessionError,
    SessionHAError,
    SessionUnavailable,
)
from sessionha.identity import group_of, session_key
from sessionha.values.address import DataAddress
from sessionha.values.codec import Undecodable, decode, encode
from sessionha.values.managers import OPERATION_DEPTH

PREFIX: Final = "/v1/data"
MSGPACK: Final = "application/msgpack"
POSITION: Final = "sessionha-position"

_E = TypeVar("_E", bound=SessionHAError)

Steps = Iterable[Iterable[Any]]
"""An operation: a list of steps such as `["append", ["lines"], ["leaf"]]`."""


class Ask(NamedTuple):
    """One request."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes

    def __repr__(self) -> str:
        return f"<Ask: {self.method}>"  # the headers have secrets


class Answer(NamedTuple):
    """One response."""

    status: int
    position: str | None
    """What the header of this name says."""
    body: bytes

    def __repr__(self) -> str:
        return f"<Answer: {self.status}>"


class Written(NamedTuple):
    """What a change achieved."""

    position: str
    """Where the session's group is now; opaque."""
    copies: int
    """How many other nodes confirmed the change."""


class Words:
    """Makes the requests for one session, and reads the answers.

    It remembers the newest position that an answer told: nothing older is accepted afterwards,
    whichever node is asked.
    """

    def __init__(self, token: str, session_id: str, virtual_server: str) -> None:
        """Raises ValueError: the ID does not look like one."""
        session = DataAddress(group_of(session_id), session_key(session_id, virtual_server))
        self.address = session
        self.position: str | None = None
        self._headers = {
            "authorization": f"Bearer {token}",
            "accept": MSGPACK,
            "content-type": MSGPACK,
            "sessionha-session": session_id,
            "sessionha-virtual-server": virtual_server,
        }

    def load(self) -> Ask:
        return self._ask("GET", self.address)

    def fetch(self, name: str) -> Ask:
        return self._ask("GET", self.address, query=name)

    def write(
        self,
        values: Mapping[str, Any],
        operations: Mapping[str, Steps],
        managers: Mapping[str, str],
        deletes: Iterable[str],
    ) -> Ask:
        steps = {name: [list(step) for step in each] for name, each in operations.items()}
        body = {"values": dict(values), "deletes": list(deletes)}
        body |= {"operations": steps, "managers": dict(managers)}
        return self._ask("PATCH", self.address, body)

    def increment(self, name: str, by: float, path: tuple[str | int, ...]) -> Ask:
        manager = "map" if path else "counter"
        return self._ask("POST", self.address.at(manager, name, *path), {"increment": by})

    def destroy(self) -> Ask:
        return self._ask("DELETE", self.address)

    def read(self, answer: Answer) -> Any:
        """The body of a good answer.

        Raises:
            KeyError, SessionHAError: what the node says.
        """
        if answer.status != 200:
            raise _error(answer)
        value = decode(answer.body)
        if isinstance(value, Undecodable):
            raise RequestRefused("the answer is none of the data API: is this a node's `admin`?")
        self.position = answer.position
        return value

    def elements(self, answer: Answer) -> dict[str, Any]:
        """The values in the answer to `load`, without those that cannot be read."""
        found: dict[str, Any] = self.read(answer)["elements"]
        return {name: element["value"] for name, element in found.items()}

    def element(self, answer: Answer, name: str) -> Any:
        """The value in the answer to `fetch`. Raises ElementNotReadable."""
        found = self.read(answer)
        if name in found["unreadable"]:
            raise ElementNotReadable(name, found["unreadable"][name])
        return found["elements"][name]["value"]

    def written(self, answer: Answer) -> Written:
        """The answer to a change."""
        found = self.read(answer)
        return Written(found["position"], found["copies"])

    def _ask(
        self, method: str, address: DataAddress, body: Any = None, query: str | None = None
    ) -> Ask:
        headers = dict(self._headers)
        if self.position is not None:
            headers[POSITION] = self.position
        path = f"{PREFIX}{address}"
        if query is not None:
            path += f"?element={quote(query, safe='')}"
        data = b"" if body is None else encode(body, "body", OPERATION_DEPTH)
        return Ask(method, path, headers, data)


def unanswered(ask: Ask, why: str, *, sent: bool) -> SessionUnavailable:
    """The error for a request that got no answer; `sent`: the node may have done it."""
    if ask.method == "GET" or not sent:
        return SessionUnavailable(f"the node does not answer ({why}); nothing was changed")
    words = f"the node did not answer ({why}): the change may have been made"
    return _made(CommitUnconfirmed, words, {"missing": (), "copies": 0})


def _error(answer: Answer) -> Exception:
    try:
        told = json.loads(answer.body)
    except ValueError:
        told = None
    if not isinstance(told, dict):
        told = {}
    name, words, about = told.get("error"), str(told.get("message")), told.get("about")
    about = about if isinstance(about, dict) else {}
    if name == "NoElement":
        return KeyError(f"the session has no element {about.get('element')!r}: {words}")
    kind = getattr(errors, name, None) if isinstance(name, str) else None
    if isinstance(kind, type) and issubclass(kind, SessionError | RequestRefused):
        return _made(kind, words, about)
    if answer.status in (401, 403):
        return RequestRefused(
            "the token is not one of the role `data`: sessionha token --role data"
        )
    return RequestRefused(f"the answer is {answer.status}, and none of the data API")


def _made(kind: type[_E], words: str, about: Mapping[str, Any]) -> _E:
    """An error as the node has it, in its words."""
    error = kind.__new__(kind)
    Exception.__init__(error, words)
    for name, value in about.items():
        setattr(error, name, tuple(value) if isinstance(value, list) else value)
    return error
