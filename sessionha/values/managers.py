"""Data managers: how elements of one kind are stored, changed and merged.

Every element names its manager, which is chosen by the type of its value (US 8,001,142). Managers
are looked up by name wherever an element is: a node that does not know one keeps its elements and
passes them on as they are.
"""

from __future__ import annotations

from typing import Any, Final

from sessionha.errors import InvalidSettings, OperationRefused
from sessionha.identity import is_name
from sessionha.values import operations
from sessionha.values.codec import IMMUTABLE, Undecodable, decode, encode, managed
from sessionha.values.operations import ABSENT, Applied

OPERATION_DEPTH: Final = 128
"""Values of at most 64 levels (setting `depth`), each somewhere inside a step."""


class DataManager:
    """How elements of one kind are kept: subclass it, and `register` one of it at import.

    A plain value is what the codec stores: str, int, list, dict, datetime, Decimal, UUID and so on.
    This class itself keeps a value as a whole: the last writer wins.
    """

    name: str = "value"
    """Stored with every element: choose it once and for all."""
    types: tuple[type, ...] = ()
    """Values of exactly these types get this manager when they are assigned."""

    def accepts(self, value: Any) -> bool:
        """Whether an element of this manager stays one when this value is assigned to it."""
        return type(value) in self.types

    def pack(self, value: Any) -> Any:
        """The plain value that is stored. Raises TypeError or ValueError for what is not valid."""
        return value

    def unpack(self, plain: Any) -> Any:
        """The value that the application gets for what is stored."""
        return plain

    def difference(self, before: Any, after: Any) -> Any:
        """The operation (a plain value) that makes the stored `after` of `before`, which is ABSENT
        for a new element; None: there is none, and `after` replaces whatever is there."""
        del before, after

    def apply(self, value: Any, operation: Any, *, strict: bool = False) -> Applied:
        """Do the operation to a stored value, which others may have changed meanwhile.

        It may change `value`, which is ABSENT where there is none. It must depend on nothing but
        its arguments: every copy does the same. `strict`: somebody wrote the operation.

        Raises:
            OperationRefused: the operation is malformed, or does not fit.
        """
        del value, operation, strict
        raise OperationRefused("an operation", f"the data manager `{self.name}` has none")

    def join(self, mine: Any, theirs: Any) -> Applied:
        """One of two values that differ, made on two sides of a split cluster from one that nobody
        knows any more; `mine` is the side's that has the newer history. It must depend on nothing
        but its arguments. This class keeps `mine`."""
        del theirs
        return Applied(mine, 1)


class _Structured(DataManager):
    """Values that are changed by path: changes of different paths are merged."""

    def difference(self, before: Any, after: Any) -> Any:
        return operations.difference(before, after)

    def apply(self, value: Any, operation: Any, *, strict: bool = False) -> Applied:
        applied = operations.apply(value, operation, strict=strict)
        if not self.accepts(applied.value):
            kind = type(applied.value).__name__
            raise OperationRefused("an operation", f"would make the {self.name} a {kind}")
        return applied


class _Map(_Structured):
    name = "map"
    types = (dict,)

    def join(self, mine: Any, theirs: Any) -> Applied:
        """The keys of both: what was deleted on one side returns."""
        both, conflicts = dict(mine), 0
        for key, value in theirs.items():
            if key not in both:
                both[key] = value
            elif type(value) is dict and type(both[key]) is dict:
                both[key], inside = self.join(both[key], value)
                conflicts += inside
            else:
                conflicts += both[key] != value
        return Applied(both, conflicts)


class _List(_Structured):
    name = "list"
    types = (list,)


class _Set(_Structured):
    name = "set"
    types = (set,)

    def join(self, mine: Any, theirs: Any) -> Applied:
        """The members of both: what was taken out on one side returns."""
        return Applied(mine | theirs, 0)


class _Counter(DataManager):
    """A number to which everybody's changes are added; assigning one adds the difference."""

    name = "counter"

    def accepts(self, value: Any) -> bool:
        return type(value) in (int, float)

    def difference(self, before: Any, after: Any) -> Any:
        return [["increment", [], after - before if self.accepts(before) else after]]

    def apply(self, value: Any, operation: Any, *, strict: bool = False) -> Applied:
        applied = operations.apply(value, operation, strict=strict)
        if not self.accepts(applied.value):
            raise OperationRefused("an operation", "would make the counter something else")
        return applied

    def join(self, mine: Any, theirs: Any) -> Applied:
        """The larger: of what both have added, one side's is lost."""
        return Applied(max(mine, theirs), 1)


VALUE: Final = DataManager()
COUNTER: Final = _Counter()

_by_name: Final[dict[str, DataManager]] = {}
_by_type: Final[dict[type, DataManager]] = dict.fromkeys(IMMUTABLE, VALUE)


def register(manager: DataManager) -> None:
    """Make a data manager known in this process; do it at import, in every server.

    Raises:
        InvalidSettings: its name is no name or taken, or another manager has one of its types.
    """
    problems = []
    if not is_name(manager.name):
        problems.append(
            f"the data manager's name {manager.name!r} must be 1 to 64 letters, digits, `.`, `_`"
            " or `-`"
        )
    elif manager.name in _by_name:
        problems.append(f"a data manager `{manager.name}` exists already: choose another name")
    problems += [
        f"values of type {kind.__name__} belong to the data manager `{_by_type[kind].name}`"
        for kind in manager.types
        if kind in _by_type
    ]
    if problems:
        raise InvalidSettings(problems)
    _by_name[manager.name] = manager
    _by_type.update(dict.fromkeys(manager.types, manager))
    managed.update(manager.types)


def named(name: str) -> DataManager | None:
    """The data manager of this name; None: it is not known in this process."""
    return _by_name.get(name)


def manager_for(value: Any, present: str = "value") -> DataManager:
    """The manager of an element that gets this value and has the manager `present` so far."""
    if present != "value" and (known := _by_name.get(present)) is not None and known.accepts(value):
        return known
    for kind in type(value).__mro__:
        if kind in _by_type:
            return _by_type[kind]
    return VALUE


def read(manager: str, stored: bytes) -> Any | Undecodable:
    """The value of an element, or Undecodable: its bytes or its manager are not known here."""
    known = _by_name.get(manager)
    if known is None:
        return Undecodable(stored, f"its data manager `{manager}` is not registered here")
    plain = decode(stored)
    if known.types and not isinstance(plain, Undecodable):
        try:
            return known.unpack(plain)
        except Exception as error:  # noqa: BLE001 -- an application's code: this element only
            return Undecodable(stored, f"{type(error).__name__}: {error}"[:200])
    return plain


def is_plain(manager: str) -> bool:
    """Whether the application gets the values of this manager as the codec decodes them."""
    known = _by_name.get(manager)
    return known is not None and type(known).unpack is DataManager.unpack


def operation_between(manager: str, before: bytes | None, after: bytes) -> bytes | None:
    """The encoded operation that makes one stored value of another; None: there is none."""
    known = _by_name[manager]
    start = ABSENT if before is None else decode(before)
    if isinstance(start, Undecodable):
        return None
    operation = known.difference(start, decode(after))
    return None if operation is None else encode(operation, manager, OPERATION_DEPTH)


def changed(
    manager: str, stored: bytes | None, operation: bytes, *, strict: bool = False
) -> tuple[bytes, int]:
    """A stored value after an encoded operation, and the number of conflicts.

    Raises:
        OperationRefused: the manager is not known here, or the operation cannot be done.
    """
    known = _by_name.get(manager)
    if known is None:
        raise OperationRefused("an operation", f"the data manager `{manager}` is not known here")
    value = ABSENT if stored is None else decode(stored)
    steps = decode(operation)
    if isinstance(value, Undecodable) or isinstance(steps, Undecodable):
        raise OperationRefused("an operation", "the element or the operation cannot be decoded")
    try:
        applied = known.apply(value, steps, strict=strict)
    except OperationRefused:
        raise
    except Exception as error:  # an application's code; every copy must have an answer
        why = f"cannot be done by the data manager `{manager}`: {type(error).__name__}: {error}"
        raise OperationRefused("an operation", why[:300]) from error
    return encode(applied.value, manager, OPERATION_DEPTH), applied.conflicts


def joined(manager: str, mine: bytes, theirs: bytes) -> tuple[bytes, int]:
    """What becomes of two stored values that differ, of two sides of a split, and the number of
    conflicts. Where the manager cannot tell, or is not known here, `mine` stays."""
    known = _by_name.get(manager)
    if known is None:
        return mine, 1
    values = decode(mine), decode(theirs)
    if any(isinstance(value, Undecodable) for value in values):
        return mine, 1
    try:
        both = known.join(*values)
        return encode(both.value, manager, OPERATION_DEPTH), both.conflicts
    except Exception:  # noqa: BLE001 -- an application's code; the group must have an owner
        return mine, 1


for _each in (VALUE, _Map(), _List(), _Set(), COUNTER):
    register(_each)
