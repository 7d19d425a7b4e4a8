"""What the contract's application does with a session, whatever framework it is written in.

An application has one route, `/<act>`. It calls `act` with the act's name, the query's parameters
and the framework's own session; carries out what `Done.then` asks for in the framework's own way;
and answers `Done.said` as JSON. Four acts need more of a framework, and are the application's own:

- `slow`: call `act`, wait for `gate(parameters)`, and call `act` again, with the name
  `parameters["then"]`;
- `stream`: a body of the pieces `one ` and `two`, between which `session[parameters["token"]]`
  becomes True;
- `background`: the same after the response;
- `static`: an answer that has nothing to do with the session.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Mapping
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from typing import Any, Final, Literal, NamedTuple
from uuid import UUID

SECRET_KEY: Final = "c0de-8f31-4b7a-99e2-5d06-ab54-7713-e8f9"  # of the tests' applications only

PATIENCE: Final = 30.0
"""Seconds after which a slow request goes on though nobody opened its gate."""

TYPES: Final[Mapping[str, Any]] = {
    "bytes": b"\x00\xff",
    "date": date(2026, 11, 23),
    "datetime": datetime(2026, 11, 23, 16, 5, tzinfo=UTC),
    "decimal": Decimal("1.10"),
    "none": None,
    "set": {1, 2},
    "timedelta": timedelta(minutes=5),
    "tuple": (1, (2, "three")),
    "uuid": UUID("12345678-1234-5678-1234-567812345678"),
    "nested": {"list": [1, {"deep": (True, 1.5)}], "ümlaut": "ß"},
}

_PLAIN: Final = (str, int, float, bool, list, type(None))

_gates: dict[str, Gate] = {}


class Done(NamedTuple):
    """What was done with the session, and what is left to do."""

    said: Any
    """The answer, for JSON."""
    then: Literal["renew", "destroy"] | None = None
    """What the application does by its framework's own means."""


class Gate:
    """Where a slow request waits, in a thread, until another request opens it."""

    def __init__(self) -> None:
        self._reached = threading.Event()
        self._open = threading.Event()

    def wait(self) -> None:
        """Wait until it is open; of a coroutine: `await asyncio.to_thread(gate.wait)`."""
        self._reached.set()
        self._open.wait(PATIENCE)

    def reached(self) -> bool:
        """Whether a request waits, or has waited, here."""
        return self._reached.is_set()

    def open(self) -> None:
        self._open.set()


def gate(parameters: Mapping[str, str]) -> Gate:
    """The gate that a request names (`?gate=`)."""
    return _gates.setdefault(parameters["gate"], Gate())


def act(name: str, parameters: Mapping[str, str], session: Any) -> Done:
    """Do what the act says. The session needs the methods of a dict that are used here; nothing
    else of it is touched, and by `who`, `open` and `reached` not even those."""
    match name:
        case "who":
            return Done(os.environ.get("SESSIONHA_NODE"))
        case "open":
            gate(parameters).open()
            return Done(None)
        case "reached":
            return Done(gate(parameters).reached())
        case "log-in":
            session["user"] = parameters["user"]
            return Done(_shown(session), "renew")
        case "log-out":
            return Done(None, "destroy")
        case "load-types":
            return Done({name: repr(value) for name, value in session["types"].items()})
        case "read" | "slow" | "stream" | "background":
            return Done(_shown(session))
        case _:
            _change(name, parameters, session)
            return Done(_shown(session))


def _change(name: str, parameters: Mapping[str, str], session: Any) -> None:
    match name:
        case "put":
            session[parameters["token"]] = True
        case "count":
            session["n"] = session.get("n", 0) + 1
        case "delete":
            del session[parameters["token"]]
        case "append":
            if "items" not in session:
                session["items"] = []
            session["items"].append(parameters["token"])
        case "store-types":
            session["types"] = dict(TYPES)
        case "store-object":
            session["kept-not"] = True
            session["odd"] = threading.Lock()
        case "store-much":
            session["kept-not"] = True
            session["much"] = "x" * 200_000
        case _:
            raise LookupError(name)


def _shown(session: Any) -> dict[str, Any]:
    """What JSON can show of the session's elements. Django's session cannot be iterated."""
    names = list(session.keys())
    return {name: session[name] for name in names if isinstance(session[name], _PLAIN)}
