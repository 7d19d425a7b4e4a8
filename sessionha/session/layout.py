"""A session's values, decoded once for every request that finds the session unchanged.

Values that cannot change are shared between requests. The others are decoded for each request, all
in one call, and one encoding tells at its end whether any of them was changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sessionha.state.base import Elements, Puts, Stored
from sessionha.values.codec import IMMUTABLE, Undecodable, decode_list, is_stored, joined
from sessionha.values.managers import is_plain, read


class Layout(NamedTuple):
    """What the elements of one session at one position are."""

    values: dict[str, Any]
    """By name, in the elements' order; None in the place of those that are decoded each time."""
    changeable: tuple[str, ...]
    """Names of values that could be changed in place, but for `odd` ones."""
    stored: bytes
    """The encoded list of the changeable values."""
    odd: dict[str, Stored]
    """Manager and encoded value of what could be changed in place, and msgpack alone cannot
    store."""
    unreadable: dict[str, str]
    """Names of elements that cannot be decoded here, and why."""

    def __repr__(self) -> str:
        return f"<Layout: {len(self.values)} elements>"  # never a value

    def read(self) -> tuple[dict[str, Any], list[Any]]:
        """The values for one request, and the changeable ones among them."""
        values = self.values.copy()
        changeable: list[Any] = []
        if self.changeable:
            changeable = decode_list(self.stored)
            values.update(zip(self.changeable, changeable, strict=True))
        for name, (manager, raw) in self.odd.items():
            values[name] = read(manager, raw)
        return values, changeable

    def is_unchanged(self, changeable: list[Any]) -> bool:
        """Whether the changeable values that `read` gave surely are what they were, but for lists
        that have become equal tuples."""
        return not changeable or is_stored(changeable, self.stored)

    def after(self, puts: Puts, deletes: Sequence[str], changed: Elements) -> Layout | None:
        """The layout of `changed`, when it lies close; None: make it anew."""
        if deletes:
            return None
        values, changeable = self.values.copy(), self.changeable
        joins = False
        for name, manager, raw in puts:
            if name in self.odd or name in self.unreadable:
                return None
            value = read(manager, raw)
            known = name in changeable
            if type(value) in IMMUTABLE:
                if known:
                    return None
                values[name] = value
            elif (known or name not in values) and is_plain(manager) and is_stored(value, raw):
                values[name] = None
                changeable = changeable if known else (*changeable, name)
                joins = True
            else:
                return None
        if not joins:
            return self._replace(values=values)
        stored = joined([changed[name][1] for name in changeable])
        return self._replace(values=values, changeable=changeable, stored=stored)


def layout_of(elements: Elements) -> Layout:
    """The layout of the elements; made once."""
    known = elements.reading
    if isinstance(known, Layout):
        return known
    layout = elements.reading = _made(elements)
    return layout


def _made(elements: Elements) -> Layout:
    values: dict[str, Any] = {}
    unreadable: dict[str, str] = {}
    changeable: dict[str, bytes] = {}
    odd: dict[str, Stored] = {}
    for name, (manager, raw) in elements.items():
        value = read(manager, raw)
        if isinstance(value, Undecodable):
            unreadable[name] = value.why
        elif type(value) in IMMUTABLE:
            values[name] = value
        else:
            values[name] = None
            if is_plain(manager) and is_stored(value, raw):
                changeable[name] = raw
            else:
                odd[name] = manager, raw
    return Layout(
        values,
        tuple(changeable),
        joined(tuple(changeable.values())),
        odd,
        unreadable,
    )
