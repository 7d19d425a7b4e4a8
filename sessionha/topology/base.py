"""The narrow interface between the topology manager and everybody who asks it (system 3)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple, Protocol

from sessionha.identity import ViewID
from sessionha.store.base import Reader
from sessionha.view import View


class Change(NamedTuple):
    """What a new view changed for one node."""

    kind: Literal["joined", "left", "failed", "returned"]
    node: str
    kept: bool = False
    """returned: its store outlived the absence. left: it said that it will come back."""


class LastChange(NamedTuple):
    """The last view that was news to this engine."""

    view: ViewID
    changes: tuple[Change, ...]
    ago: int
    """Milliseconds since this engine learned of it."""


class Picture(NamedTuple):
    """What people want to see of the topology besides the view."""

    watches: Mapping[str, tuple[str, ...]]
    """Each member with those it watches."""
    description: str
    """Hash of this node's static description."""
    differing: Mapping[str, str]
    """Nodes that have had another description for a while, each with what differs."""
    detours: Mapping[str, str]
    """Members that only answer by one hop, each with the one that it leads through (R1)."""
    last_change: LastChange | None
    """None until there was one since this process started."""


class ViewListener(Protocol):
    """Told every view that this node installs, in order and once an engine."""

    def view_changed(self, view: View, changes: tuple[Change, ...]) -> None: ...


class Membership(Protocol):
    """What the state manager, the router and the administrator may ask."""

    def view(self) -> View:
        """The view that this node holds now (from its store, so the same in every engine)."""
        ...

    def view_in(self, reader: Reader) -> View:
        """The view, read in a transaction of the caller's."""
        ...

    async def wait_change(self, known: ViewID, timeout: float) -> View:
        """The view, as soon as it is not `known` any more, or after `timeout` seconds."""
        ...

    def lease_in(self, reader: Reader) -> int:
        """Until when this node may serve, an instant of its clock (R9). Whoever serves reads it in
        the transaction that acts on it, and the clock after that has begun: what such a transaction
        sees was current when the clock was read."""
        ...

    def is_member(self) -> bool:
        """Whether that view has this node, in its present incarnation."""
        ...

    def unproven(self) -> tuple[str, ...]:
        """Configured nodes that are not in the view and not yet forgotten: they may hold data
        that nobody in the view has, so nothing may be called gone because of them (R12, R18).
        Witnesses hold none."""
        ...

    def elsewhere(self) -> tuple[str, ...]:
        """Nodes that are configured or were members, and are not in the view; no witnesses."""
        ...

    def away(self) -> Mapping[str, int]:
        """Nodes that were members and are not now: milliseconds since each went; no witnesses."""
        ...

    def suspect(self, node: str) -> None:
        """The data path got no answer from `node`: look at it now."""
        ...

    def subscribe(self, listener: ViewListener) -> None: ...
