"""A session's values, decoded once for every request that finds the session unchanged.

Values that cannot change are shared between requests. The others are decoded for each request, all
in one call, and one encoding tells at its end whether any of them was changed in place.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

from sessionha.state.base import Elements, Puts
from sessionha.values.codec import (
    IMMUTABLE,
    Undecodable,
    decode,
    decode_list,
    is_stored,
    joined,
)


class Layout(NamedTuple):
    """What the elements of one session at one position are."""

    values: dict[str, Any]
    """By name, in the elements' order; None in the place of those that are decoded each time."""
    changeable: tuple[str, ...]
    """Names of values that could be changed in place, but for `odd` ones."""
    stored: bytes
    """The encoded list of the changeable values."""
    odd: dict[str, bytes]
    """Encoded values that could be changed in place, and that msgpack alone cannot store."""
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
        for name, raw in self.odd.items():
            values[name] = decode(raw)
        return values, changeable

    def is_unchanged(self, changeable: list[Any]) -> bool:
        """Whether the changeable values that `read` gave surely are what they were, but for lists
        that have become equal tuples."""
        return not changeable or is_stored(changeable, self.stored)

    def after(self, puts: Puts, deletes: Sequence[str]) -> Layout | None:
        """The layout when some of the shared values have changed; None: make it anew."""
        if deletes:
            return None
        values = self.values.copy()
        for name, _, raw in puts:
            value = decode(raw)
            known = name in values and name not in self.odd and name not in self.changeable
            if not known or type(value) not in IMMUTABLE:
                return None
            values[name] = value
        return self._replace(values=values)


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
    odd: dict[str, bytes] = {}
    for name, (_, raw) in elements.items():
        value = decode(raw)
        if isinstance(value, Undecodable):
            unreadable[name] = value.why
        elif type(value) in IMMUTABLE:
            values[name] = value
        else:
            values[name] = None
            (changeable if is_stored(value, raw) else odd)[name] = raw
    return Layout(
        values,
        tuple(changeable),
        joined(tuple(changeable.values())),
        odd,
        unreadable,
    )
