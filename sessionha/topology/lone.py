"""The membership of a node without peers: one view with itself, no task, no event loop."""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable

from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Message
from sessionha.store.base import Reader, Store
from sessionha.topology.base import Picture, ViewListener
from sessionha.topology.health import NodeState, Signs, state_of
from sessionha.topology.members import changes, holds
from sessionha.topology.rows import Rows
from sessionha.view import NO_MEMBERS, Member, View

FOREVER = 1 << 62
"""Later than every instant."""


class LoneMembership:
    """The same questions as the topology manager answers, for a node that is alone for good.

    No method suspends on an event loop, so any coroutine here can be driven by hand.
    """

    leads = True
    waiting_for = ""
    lacks: tuple[str, ...] = ()
    has_lost_votes = False

    def __init__(self, store: Store, me: Member) -> None:
        self._store = store
        self._rows = Rows(store)
        self._me = me
        self._listeners: list[ViewListener] = []
        self.counts: Counter[str] = Counter()

    @property
    def state(self) -> str:
        """joined, once begun."""
        return "joined" if self.is_member() else "connecting"

    def node_state(self, node: str) -> NodeState:
        """Ready, once begun."""
        return state_of(node, self.view(), Signs(self.state, self._store.incarnation))

    def picture(self) -> Picture:
        """Nobody watches, and nothing is described."""
        return Picture({}, "", {}, {}, None)

    def begin(self) -> None:
        """Put the view of one member into the store, unless it is there from before."""
        view = self._rows.alone(self._me)
        for listener in self._listeners:
            listener.view_changed(view, changes(NO_MEMBERS, view))

    def view(self) -> View:
        """The view of one member."""
        return self._rows.view()

    def view_in(self, reader: Reader) -> View:
        """The same, inside a transaction."""
        return self._rows.view_in(reader)

    def lease_in(self, reader: Reader) -> int:  # noqa: ARG002 - see Membership
        """For ever: nobody could take its place."""
        return FOREVER

    def leased(self) -> bool:
        """Always."""
        return True

    def is_member(self) -> bool:
        """Whether it was begun."""
        return holds(self.view(), self._me.node, self._store.incarnation)

    def unproven(self) -> tuple[str, ...]:
        """Nobody else can hold anything."""
        return ()

    def elsewhere(self) -> tuple[str, ...]:
        """There is nobody else."""
        return ()

    def away(self) -> dict[str, int]:
        """Nobody else was ever here."""
        return {}

    def suspect(self, node: str) -> None:
        """There is nobody to suspect."""

    def forget(self, node: str) -> None:
        """There is nobody to forget."""

    def bootstrap(self, without: tuple[str, ...]) -> bool:  # noqa: ARG002
        """Nobody votes here."""
        return False

    def subscribe(self, listener: ViewListener) -> None:
        """Tell the listener the one view, when it begins."""
        self._listeners.append(listener)

    def handle(
        self,
        sender: Sender,  # noqa: ARG002
        message: Message,  # noqa: ARG002
    ) -> Message | Awaitable[Message | None] | None:
        """Nobody sends messages here."""
        return None

    async def start(self) -> None:
        """Begin."""
        self.begin()

    async def leave(self, *, returning: bool, patient: Callable[[], bool] = lambda: False) -> None:
        """There is nobody to say goodbye to."""

    async def stop(self) -> None:
        """Nothing runs."""

    async def wait_change(self, known: ViewID, timeout: float) -> View:  # noqa: ARG002
        """The view; it will not change, so there is nothing to wait for."""
        return self.view()
