"""Changes inside a value: what differs between two, and doing the same to a third.

An operation is a list of steps, each a list of its name, a path and arguments:

    ["set", path, value, guard]              replace or add what is at the path
    ["remove", path, guard]                  take it out of its map or list
    ["update", path, map]                    set several keys of a map, which is made if need be
    ["append", path, items]                  add to the end of a list
    ["splice", path, index, removed, items]  take items out of a list and put others there
    ["increment", path, number]              add to a number
    ["add", path, members]                   to a set; ["discard", path, members] from one

A path is a list of keys. The place of a list's item is its index, or `[index, fingerprint]`: it is
looked for where it went when others have changed the list meanwhile. A guard is the fingerprint of
what was there before, 0 for nothing: when it is something else by now, the later change wins and a
conflict is counted. `removed` are the items' fingerprints, or how many. Guards may be left out.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable
from typing import Any, Final, NamedTuple

from sessionha.errors import OperationRefused
from sessionha.values.codec import checksum, encode

Operation = list[list[Any]]

ABSENT: Final = object()
"""In the place of a value where there is none."""

STEPS: Final = 4096
"""Steps of one operation: as many changes are better sent as a whole value."""

PATH: Final = 64
"""Keys of a path: no value of a session is nested deeper (setting `depth`)."""

_NOTHING: Final = 0  # the guard of what did not exist
_DEPTH: Final = 64  # of values that were encoded before, or are about to be


class Applied(NamedTuple):
    """A value after an operation, and how often it met what it did not expect."""

    value: Any
    conflicts: int


# --- what differs --------------------------------------------------------------------------------


def difference(before: Any, after: Any) -> Operation:
    """The steps that make `after` of `before`: exactly, also in the order of keys.

    Both are plain values as the codec decodes them; `before` may be ABSENT.
    """
    steps: Operation = []
    _compare(before, after, [], steps)
    if len(steps) > STEPS:
        steps.clear()
    return steps or [["set", [], after, _guard(before)]]  # as 1 and True: equal, and not the same


def _compare(before: Any, after: Any, path: list[Any], steps: Operation) -> None:
    kind: Any = type(after)
    if before is ABSENT and kind in _MADE:
        steps.append([_MADE[kind], path, after])
    elif type(before) is not kind or kind not in _MADE:
        steps.append(["set", path, after, _guard(before)])
    elif kind is dict:
        _compare_maps(before, after, path, steps)
    elif kind is list:
        _compare_lists(before, after, path, steps)
    else:
        if gone := before - after:
            steps.append(["discard", path, list(gone)])
        if come := after - before:
            steps.append(["add", path, list(come)])


def _compare_maps(
    before: dict[Any, Any], after: dict[Any, Any], path: list[Any], steps: Operation
) -> None:
    kept = [key for key in before if key in after]
    if kept != [*after][: len(kept)]:
        steps.append(["set", path, after, _guard(before)])  # its keys have another order
        return
    for key, value in before.items():
        if key not in after:
            steps.append(["remove", [*path, key], _guard(value)])
    for key, value in after.items():
        if key not in before:
            steps.append(["set", [*path, key], value, _NOTHING])
        elif not is_same(before[key], value):
            _compare(before[key], value, [*path, key], steps)


def _compare_lists(before: list[Any], after: list[Any], path: list[Any], steps: Operation) -> None:
    start = 0
    shorter = min(len(before), len(after))
    while start < shorter and is_same(before[start], after[start]):
        start += 1
    end = 0
    while end < shorter - start and is_same(before[-1 - end], after[-1 - end]):
        end += 1
    old, new = before[start : len(before) - end], after[start : len(after) - end]
    if start == len(before):
        steps.append(["append", path, new])
    elif len(old) == len(new):
        for index, (was, becomes) in enumerate(zip(old, new, strict=True), start):
            if not is_same(was, becomes):
                place = [*path, [index, checksum(was)]]
                _compare(was, becomes, place, steps)
    elif len(old) <= STEPS:
        steps.append(["splice", path, start, [checksum(item) for item in old], new])
    else:
        steps.append(["set", path, after, _guard(before)])


def is_same(one: Any, other: Any) -> bool:
    """Whether both have the same stored form."""
    kind = type(one)
    if kind is not type(other):
        return False
    if kind in _EQUAL:
        return bool(one == other)
    return encode(one, "item", _DEPTH) == encode(other, "item", _DEPTH)


def _guard(value: Any) -> int:
    return _NOTHING if value is ABSENT else checksum(value)


_MADE: Final = {dict: "update", list: "append", set: "add"}
"""Types that are changed by steps, and the step that makes one of nothing."""

_EQUAL: Final = frozenset({type(None), bool, int, str, bytes})
"""Types of which equal values are the same."""


# --- doing it ------------------------------------------------------------------------------------


def apply(value: Any, operation: Any, *, strict: bool = False) -> Applied:
    """Do the steps to a value of one's own, which is changed, or ABSENT.

    `strict`: for steps that somebody wrote: what has no place is a mistake. Otherwise they were
    made by `difference`, and where others changed the value meanwhile the later change wins: only
    what happens inside an item of a list that is gone is dropped. Both are counted as conflicts.

    Raises:
        OperationRefused: the operation is malformed, or `strict` and it does not fit; the value
            may be half changed.
    """
    if not isinstance(operation, list) or len(operation) > STEPS:
        raise OperationRefused("an operation", f"must be a list of at most {STEPS} steps")
    doing = _Doing(strict)
    for step in operation:
        value = doing.step(value, step)
    return Applied(value, doing.conflicts)


class _Gone(Exception):
    """The item in which something should happen is gone."""


_Change = Callable[[Any], Any]


class _Doing:
    """One operation on its way into a value."""

    def __init__(self, strict: bool) -> None:
        self.strict = strict
        self.conflicts = 0
        self.name = ""
        self.items: dict[tuple[int, int, int], tuple[list[Any], int]] = {}
        """Where items of lists were found: an earlier step may have changed them since."""
        self.places: dict[int, tuple[list[Any], _Places]] = {}
        """Of lists in which an item is not where it was."""

    def step(self, value: Any, step: Any) -> Any:
        make = None
        if isinstance(step, list) and step and isinstance(step[0], str):
            make = _STEPS.get(step[0])
        if make is None:
            raise OperationRefused("a step", f"must be a list that begins with one of {_NAMES}")
        self.name = step[0]
        try:
            _, path, *arguments = step
            if not isinstance(path, list):
                raise OperationRefused(self.name, "needs a path: a list of keys and indexes")
            if len(path) > PATH:
                raise OperationRefused(self.name, f"needs a path of at most {PATH} keys")
            return self.at(value, path, make(self, *arguments))
        except _Gone:
            return value
        except (TypeError, ValueError, ArithmeticError) as error:
            # The arguments' number or types: they came from outside.
            why = f"cannot be done with these arguments: {error}"
            raise OperationRefused(self.name, why) from None

    def at(self, value: Any, path: list[Any], change: _Change) -> Any:
        """The value with the change at the path; ABSENT takes it away."""
        if not path:
            return change(value)
        head, rest = path[0], path[1:]
        if type(value) is list:
            index = self.index(value, head)
            made = self.at(value[index], rest, change)
            if made is ABSENT:
                del value[index]
                self.places.pop(id(value), None)
            else:
                value[index] = made
            return value
        if type(head) is list:
            self.surprised("its list is gone")
            raise _Gone
        holder = value if type(value) is dict else {}
        made = self.at(holder.get(head, ABSENT), rest, change)
        if made is ABSENT:
            holder.pop(head, None)
            return value
        if holder is not value and value is not ABSENT:
            self.surprised("there is no map on the way")
        holder[head] = made
        return holder

    def index(self, items: list[Any], head: Any) -> int:
        """Where an item of the list is by now."""
        index, mark = head if type(head) is list and len(head) == 2 else (head, 0)
        if type(index) is not int:
            self.surprised("a list is there, whose places are whole numbers")
            raise _Gone
        if not mark:
            return self.inside(items, index)
        key = id(items), index, mark
        if key not in self.items:
            place = self.find(items, index, mark)
            if place is None:
                self.conflicts += 1
                place = self.inside(items, index)
            self.items[key] = items, place  # the list too, so that its address stays its own
        return self.items[key][1]

    def find(self, items: list[Any], index: int, mark: int) -> int | None:
        """Where the item with this fingerprint is, nearest to where it was."""
        if 0 <= index < len(items) and checksum(items[index]) == mark:
            return index
        if id(items) not in self.places:
            self.places[id(items)] = items, _Places(items)
        return self.places[id(items)][1].nearest(index, mark)

    def inside(self, items: list[Any], index: int) -> int:
        """The index, if the list has it."""
        if not -len(items) <= index < len(items):
            self.surprised("the list has no such item")
            raise _Gone
        return index % len(items)

    def surprised(self, why: str) -> None:
        """Something is not as it should be: a mistake, or somebody was quicker."""
        if self.strict:
            raise OperationRefused(self.name, f"does not fit: {why}")
        self.conflicts += 1

    def expect(self, value: Any, guard: int | None) -> None:
        if guard is not None and guard != _guard(value):
            self.surprised("something else is there by now")

    def container(self, value: Any, kind: type) -> Any:
        """The container to change; a new one where there is none, or something else."""
        if type(value) is kind:
            return value
        if value is not ABSENT:
            self.surprised(f"there is no {kind.__name__}")
        return kind()

    # Each makes the change of one step of its arguments.

    def set(self, becomes: Any, guard: int | None = None) -> _Change:
        def change(value: Any) -> Any:
            self.expect(value, guard)
            return becomes

        return change

    def remove(self, guard: int | None = None) -> _Change:
        def change(value: Any) -> Any:
            if value is ABSENT:
                self.surprised("nothing is there")
            else:
                self.expect(value, guard)
            return ABSENT

        return change

    def update(self, keys: dict[Any, Any]) -> _Change:
        if type(keys) is not dict:
            raise TypeError("a map is needed")

        def change(value: Any) -> Any:
            holder = self.container(value, dict)
            holder.update(keys)
            return holder

        return change

    def append(self, items: list[Any]) -> _Change:
        if type(items) is not list:
            raise TypeError("a list is needed")
        return lambda value: [*self.container(value, list), *items]

    def splice(self, index: int, removed: Any, items: list[Any]) -> _Change:
        if type(index) is not int or type(items) is not list:
            raise TypeError("an index and a list are needed")

        def change(value: Any) -> Any:
            found = self.container(value, list)
            place = index + len(found) if index < 0 else index
            if type(removed) is int:
                found[place : place + max(removed, 0)] = items
                return found
            return self.replace_items(found, place, removed, items)

        return change

    def replace_items(
        self, found: list[Any], place: int, removed: list[int], items: list[Any]
    ) -> list[Any]:
        """Take out exactly the items that are meant, wherever they went."""
        if len(removed) > STEPS:
            raise ValueError(f"at most {STEPS} items can be removed")
        places = _Places(found)
        gone = set()
        for offset, mark in enumerate(removed):
            index = places.take(place + offset, mark)
            if index is None:
                self.surprised("an item to be removed has changed")
            else:
                gone.add(index)
        where = min(gone, default=min(place, len(found)))
        before = [item for at, item in enumerate(found[:where]) if at not in gone]
        after = [item for at, item in enumerate(found[where:], where) if at not in gone]
        return [*before, *items, *after]

    def increment(self, by: Any) -> _Change:
        if not _is_number(by):
            raise TypeError("a number is needed")

        def change(value: Any) -> Any:
            if _is_number(value):
                return value + by
            if value is not ABSENT:
                self.surprised("there is no number")
            return by

        return change

    def add(self, members: list[Any]) -> _Change:
        return lambda value: self.container(value, set) | set(members)

    def discard(self, members: list[Any]) -> _Change:
        return lambda value: self.container(value, set) - set(members)


_STEPS: Final[dict[Any, Callable[..., _Change]]] = {
    "set": _Doing.set,
    "remove": _Doing.remove,
    "update": _Doing.update,
    "append": _Doing.append,
    "splice": _Doing.splice,
    "increment": _Doing.increment,
    "add": _Doing.add,
    "discard": _Doing.discard,
}

_NAMES: Final = ", ".join(_STEPS)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class _Places:
    """Where the items of a list are, by their fingerprints."""

    def __init__(self, items: list[Any]) -> None:
        self._places: dict[int, list[int]] = {}
        for place, item in enumerate(items):
            self._places.setdefault(checksum(item), []).append(place)

    def nearest(self, index: int, mark: int) -> int | None:
        """The place of the item with this fingerprint that is nearest to the index."""
        places = self._places.get(mark)
        if not places:
            return None
        at = bisect_left(places, index)
        return min(places[max(at - 1, 0) : at + 1], key=lambda place: abs(place - index))

    def take(self, index: int, mark: int) -> int | None:
        """The same, and once only."""
        place = self.nearest(index, mark)
        if place is not None:
            self._places[mark].remove(place)
        return place
