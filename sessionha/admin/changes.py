"""What one message of the data API does to a session: the same as a request's handler would do."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final, NoReturn

from msgspec.structs import replace

from sessionha.errors import (
    ElementNotReadable,
    OperationRefused,
    SessionError,
    WrongManager,
)
from sessionha.peer.messages import Create, SessionChange
from sessionha.session.session import Known, Session, check_name
from sessionha.values.codec import Undecodable, decode, encode
from sessionha.values.managers import (
    COUNTER,
    OPERATION_DEPTH,
    VALUE,
    DataManager,
    changed,
    manager_for,
    named,
)
from sessionha.values.operations import ABSENT

_INDEX: Final = re.compile(r"0|-?[1-9][0-9]{0,17}")

_INVALID: Final = (TypeError, ValueError, ArithmeticError, LookupError)
"""What a data manager of an application may raise for what it does not take."""

_NEVER: Final = Create(0, 0)


class Changes:
    """Changes to a session as it was loaded; they are made when `change` is committed."""

    def __init__(self, known: Known, depth: int) -> None:
        self._known = known
        self._depth = depth
        self._session = Session(known, depth=depth)
        self._edits: list[tuple[str, str, bytes, None]] = []

    # --- looking ---

    def manager(self, name: str) -> str:
        """The data manager of an element. Raises KeyError when there is none of this name."""
        return self._known.elements[name][0]

    def value(self, name: str, path: Sequence[str] = ()) -> Any:
        """The stored form of an element's value, or of what is inside it.

        Raises:
            KeyError: nothing is there.
            ElementNotReadable: the element cannot be decoded here.
        """
        found = located(self._plain(name), path)[1]
        if found is ABSENT:
            raise KeyError(name)
        return found

    def check(self, manager: str, name: str) -> None:
        """Raise WrongManager when the element is another manager's, or nobody knows this one."""
        present = self._known.elements.get(name)
        if present is not None and present[0] != manager:
            raise WrongManager(
                f"the data manager `{manager}`",
                f"is not the one of {name!r}, which is `{present[0]}`",
            )
        if present is None and named(manager) is None:
            raise WrongManager(f"the data manager `{manager}`", "is not registered in this node")

    # --- changing ---

    def assign(self, name: str, plain: Any) -> None:
        """What `session[name] = …` does."""
        check_name(name)
        present = self._known.elements.get(name)
        self._session[name] = plain if present is None else _unpacked(present[0], plain)

    def put(self, manager: str, name: str, plain: Any) -> None:
        """The same, for a value that must be this manager's."""
        check_name(name)
        self.check(manager, name)
        value = _unpacked(manager, plain)
        if manager == COUNTER.name:
            if not COUNTER.accepts(value):
                raise OperationRefused("a counter", "is a number")
            if name not in self._known.elements:
                self._edit(name, manager, [["set", [], value]])
                return
        elif (right := self._chosen(name, value)) != manager:
            raise WrongManager(
                f"the data manager `{manager}`",
                f"does not keep a value of type {type(value).__name__}: `{right}` does",
            )
        self._session[name] = value

    def operate(self, manager: str, name: str, operation: Any, path: Sequence[str] = ()) -> Any:
        """Do an operation to an element, with its paths below `path`; what has no place for it is
        refused. Returns the stored form that it makes of what was loaded."""
        check_name(name)
        self.check(manager, name)
        stored = name in self._known.elements
        keys = located(self._plain(name) if stored else ABSENT, path)[0]
        return self._edit(name, manager, _below(keys, operation))

    def increment(self, manager: str, name: str, by: Any, path: Sequence[str] = ()) -> Any:
        """Add to a number, 0 at first, and return what it is then, but for what others add."""
        stored = self._known.elements.get(name)
        made = manager == COUNTER.name and stored is not None and stored[0] == VALUE.name
        if made and not path and COUNTER.accepts(self._plain(name)):
            after = self._edit(name, manager, [["increment", [], by]])  # as `increment` does it
        else:
            after = self.operate(manager, name, [["increment", [], by]], path)
        return located(after, path)[1]

    def delete(self, name: str) -> None:
        """What `del session[name]` does. Raises KeyError."""
        del self._session[name]

    def remove(self, manager: str, name: str, path: Sequence[str]) -> None:
        """Delete an element, or something inside it. Raises KeyError when it is not there."""
        self.manager(name)
        self.check(manager, name)
        if not path:
            self.delete(name)
            return
        self.value(name, path)
        self.operate(manager, name, [["remove", []]], path)

    def destroy(self) -> None:
        """End the session."""
        self._session.destroy()

    def change(self) -> SessionChange | None:
        """What is to be committed; None: everything is so already.

        Raises:
            ElementNotEncodable: nothing was changed.
        """
        found = self._session.prepare(_no_id, _NEVER).changes
        if not self._edits:
            return found[0] if found else None
        change = found[0] if found else SessionChange(self._known.key)
        return replace(change, edits=(*change.edits, *self._edits))

    # --- inside ---

    def _plain(self, name: str) -> Any:
        value = decode(self._known.elements[name][1])
        if isinstance(value, Undecodable):
            raise ElementNotReadable(name, value.why)
        return value

    def _edit(self, name: str, manager: str, operation: Any) -> Any:
        """Note an operation that can be done to what was loaded, and give what it makes of it."""
        encoded = encode(operation, name, OPERATION_DEPTH)
        stored = self._known.elements.get(name)
        try:
            made, _ = changed(manager, stored[1] if stored else None, encoded, strict=True)
        except SessionError:
            raise
        except _INVALID as error:
            raise OperationRefused("an operation", f"is not valid: {error}") from error
        after = decode(made)
        encode(after, name, self._depth)  # the limit of every value
        self._edits.append((name, manager, encoded, None))
        return after

    def _chosen(self, name: str, value: Any) -> str:
        """The data manager that an assignment of this value would leave the element with."""
        present = self._known.elements.get(name)
        return manager_for(value, present[0] if present else VALUE.name).name


def located(value: Any, path: Sequence[str]) -> tuple[list[Any], Any]:
    """The keys and indexes that an address's path means in this value, and what is there."""
    keys: list[Any] = []
    for step in path:
        key: Any = step
        if _INDEX.fullmatch(step) and (
            type(value) is list
            or (type(value) is dict and step not in value and int(step) in value)
        ):
            key = int(step)
        keys.append(key)
        value = _inside(value, key)
    return keys, value


def _inside(value: Any, key: Any) -> Any:
    if type(value) is dict:
        return value.get(key, ABSENT)
    if type(value) is list and type(key) is int and -len(value) <= key < len(value):
        return value[key]
    return ABSENT


def _below(keys: list[Any], operation: Any) -> Any:
    """The operation with the paths of its steps below another path."""
    if not keys:
        return operation
    if not isinstance(operation, list):
        raise OperationRefused("an operation", "below a path must be a list of steps")
    return [
        [step[0], [*keys, *step[1]], *step[2:]]
        if isinstance(step, list) and len(step) > 1 and isinstance(step[1], list)
        else step
        for step in operation
    ]


def _unpacked(manager: str, plain: Any) -> Any:
    """The value that applications have for what a message carries."""
    known: DataManager | None = named(manager)
    if known is None:
        return plain
    try:
        return known.unpack(plain)
    except _INVALID as error:
        raise OperationRefused("a value", f"is none of `{manager}`: {error}") from error


def _no_id() -> NoReturn:
    raise AssertionError("a session of the data API exists, and keeps its ID")


def shown(elements: dict[str, tuple[str, bytes]]) -> tuple[dict[str, Any], dict[str, str]]:
    """Managers and values of the elements, and why some cannot be shown."""
    found: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    for name, (manager, stored) in elements.items():
        value = decode(stored)
        if isinstance(value, Undecodable):
            unreadable[name] = value.why
        else:
            found[name] = {"manager": manager, "value": value}
    return found, unreadable
