"""How the managers reach other nodes; implemented by streams, and by the simulator."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import Literal, NamedTuple, Protocol

from sessionha.peer.messages import Message


class Sender(NamedTuple):
    """Who sent a message: proven by the stream's handshake."""

    node: str
    incarnation: str


class Way(NamedTuple):
    """A detour to a node that cannot be reached straight."""

    via: str
    """The member that passes messages on."""
    incarnation: str
    """Of the node that it leads to."""


Verdict = Literal["alive", "refused", "silent"]
"""What a fresh dial of a node met."""

Handler = Callable[[Sender, Message], "Message | Awaitable[Message | None] | None"]
"""Answers one message; a plain return value is sent at once, None sends no reply."""


class LinkListener(Protocol):
    """Told about streams that this engine dialled."""

    def link_up(self, node: str, incarnation: str) -> None: ...

    def link_down(self, node: str, *, refused: bool) -> None:
        """A stream closed and could not be made again; `refused`: its host refused."""
        ...


class Peers(Protocol):
    """Requests to other nodes. Sending is "perhaps": replication repairs."""

    async def call(self, node: str, message: Message, timeout: float) -> Message:
        """The reply of any engine of `node`, within `timeout` seconds.

        Raises:
            PeerUnavailable: refused, closed, silent, unknown node. `sent` tells whether the
                message may have arrived.
        """
        ...

    def cast(self, node: str, message: Message) -> None:
        """Send if the stream is open and its queue has room; forget otherwise."""
        ...

    def know(self, directory: Mapping[str, str]) -> None:
        """Where nodes listen: node ID to `host:port`. Streams to others are closed."""
        ...


class Links(Peers, Protocol):
    """What the topology manager asks of the streams besides: to hold, to test and to drop them."""

    async def call(
        self, node: str, message: Message, timeout: float, *, straight: bool = False
    ) -> Message:
        """As of `Peers`; `straight`: take no detour."""
        ...

    def cast(self, node: str, message: Message, *, straight: bool = False) -> None:
        """As of `Peers`; `straight`: take no detour."""
        ...

    def detour(self, ways: Mapping[str, Way]) -> None:
        """From now on these nodes, and no others, are reached by one hop through a member."""
        ...

    def keep(self, nodes: Collection[str]) -> None:
        """Hold a stream to each of these nodes; one that breaks is dialled again."""
        ...

    async def probe(self, address: str, timeout: float) -> Verdict:
        """Dial `host:port` anew: does it finish a handshake, refuse, or stay silent?"""
        ...

    def drop_all(self) -> None:
        """Close every stream: this node's incarnation changed, so each must shake hands again."""
        ...
