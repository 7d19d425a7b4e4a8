"""Counts of a whole node: each engine leaves its own in the store, and whoever is asked adds up."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

import msgspec

from sessionha.store.base import Store

ROW = b"\x00tally/"

_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder(dict[str, int]).decode


class Tally:
    """One engine's part in the counts of its node.

    An engine goes on where the last one of its slot ended, so that the node's counts never fall
    while workers come and go; what an engine did after its last `leave` dies with it.
    """

    def __init__(self, store: Store) -> None:
        self._store = store
        self._key = ROW + str(store.slot).encode()
        with store.read() as reader:
            self._base = Counter(_read(reader.get(self._key)))
        self._left: Mapping[str, int] = {}

    def leave(self, own: Mapping[str, int]) -> None:
        """Put this engine's counts into the store when they have changed.

        Raises:
            StoreFull: nothing was changed.
        """
        if own == self._left:
            return
        with self._store.write() as writer:
            writer.put(self._key, _encode(dict(self._with_base(own))))
        self._left = dict(own)

    def total(self, own: Mapping[str, int]) -> Counter[str]:
        """The node's counts: this engine's as they are now, the others' as they left them."""
        found = self._with_base(own)
        with self._store.read() as reader:
            for key, value in reader.scan(ROW):
                if key != self._key:
                    found.update(_read(value))
        return found

    def _with_base(self, own: Mapping[str, int]) -> Counter[str]:
        found = Counter(own)
        found.update(self._base)  # unlike `+` it keeps what is 0 so far
        return found


def _read(value: bytes | None) -> dict[str, int]:
    return {} if value is None else _decode(value)
