"""The streams of one engine: those it dialled, by node, and those that it accepted."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Collection, Coroutine, Mapping
from typing import Any

from sessionha.discovery.base import Proof
from sessionha.errors import PeerUnavailable
from sessionha.peer.auth import Keys, Party, Role
from sessionha.peer.base import Handler, LinkListener, Verdict, Way
from sessionha.peer.channel import (
    DEFAULT_LIMITS,
    Accepted,
    Common,
    Dialled,
    Limits,
    Outbox,
    StreamCounters,
    Warnings,
)
from sessionha.peer.link import REFUSALS, Link, knock
from sessionha.peer.messages import Message, encode
from sessionha.peer.relay import call_by, wrapped
from sessionha.peer.transport import TLS, Listening, listen

__all__ = ["TLS", "Limits", "StreamCounters", "Streams"]

_CLOSING = 1.0
"""Seconds that a closing stream gets to deliver what was sent."""


class Streams:
    """Requests to other nodes over one stream each, and the answers to theirs.

    Construction does nothing; everything else needs a running event loop. Nodes are dialled at
    the first call, or at once and for good when they are kept.
    """

    def __init__(
        self,
        me: str,
        cluster: str,
        handler: Handler,
        *,
        secrets: Callable[[], tuple[bytes, ...]],
        incarnation: Callable[[], str],
        beginning: Callable[[], str] = str,
        listener: LinkListener | None = None,
        role: Role = "member",
        limits: Limits = DEFAULT_LIMITS,
        tls: TLS | None = None,
        chance: random.Random | None = None,
    ) -> None:
        """`secrets`: the cluster secrets, read at each handshake; the first signs. `incarnation`
        is asked at each handshake too, and `beginning`: the identity that the cluster got when it
        began, empty where there is none. `chance` spreads the times of reconnecting."""
        self._me = me
        self._cluster = cluster
        self._role = role
        self._incarnation = incarnation
        self._beginning = beginning
        self._secrets = secrets
        self._handler = handler
        self._listener = listener
        self._chance = chance or random.Random()
        self.counters = StreamCounters()
        self._common = Common(self._party, self._keys, limits, self.counters, Warnings(), tls)
        self._known_keys: tuple[tuple[bytes, ...], Keys] | None = None
        self._directory: dict[str, str] = {}
        self._kept: frozenset[str] = frozenset()
        self._ways: Mapping[str, Way] = {}
        self._links: dict[str, Link] = {}
        self._accepted: set[Accepted] = set()
        self._handling: set[asyncio.Task[None]] = set()
        self._listening: Listening | None = None
        self._closed = False

    def call(
        self, node: str, message: Message, timeout: float, *, straight: bool = False
    ) -> Coroutine[Any, Any, Message]:
        """Await the reply of any engine of `node`, within `timeout` seconds, by the detour that
        leads there, if there is one; `straight`: by no detour.

        Raises:
            PeerUnavailable: refused, closed, silent, unknown, too much queued, too large. `sent`
                tells whether the message may have arrived.
        """
        if self._ways and not straight and (way := self._ways.get(node)) is not None:
            return call_by(way, self._call_straight, node, message, timeout)
        return self._call_straight(node, message, timeout)

    def _call_straight(
        self, node: str, message: Message, timeout: float
    ) -> Coroutine[Any, Any, Message]:
        link = self._links.get(node) or self._link(node)
        return link.call(encode(message), timeout)

    def cast(self, node: str, message: Message, *, straight: bool = False) -> None:
        """Send if the stream is open and its queue has room; forget and count otherwise."""
        if self._ways and not straight and (way := self._ways.get(node)) is not None:
            node, message = way.via, wrapped(way, node, message)
        try:
            link = self._links.get(node) or self._link(node)
        except PeerUnavailable:
            self.counters.dropped_casts += 1
            return
        if not link.cast(encode(message)):
            self.counters.dropped_casts += 1

    def know(self, directory: Mapping[str, str]) -> None:
        """Where nodes listen: node ID to `host:port`. Streams to others are closed."""
        self._directory = {node: at for node, at in directory.items() if node != self._me}
        for node, link in list(self._links.items()):
            if self._directory.get(node) != link.address:
                del self._links[node]
                link.close("its address is not known any more")
        self._hold()

    def detour(self, ways: Mapping[str, Way]) -> None:
        """From now on these nodes, and no others, are reached by one hop through a member."""
        self._ways = ways

    def keep(self, nodes: Collection[str]) -> None:
        """Hold a stream to each of these nodes, as soon as and as long as its address is known."""
        self._kept = frozenset(nodes)
        self._hold()

    async def probe(self, address: str, timeout: float) -> Verdict:
        """Dial `host:port` anew: does it finish a handshake, refuse, or stay silent?"""
        loop = asyncio.get_running_loop()
        limits = self._common.limits
        deadline = loop.time() + timeout
        refusals = 0
        while (left := deadline - loop.time()) > 0:
            channel = Dialled(
                self._common, Outbox(), "", replied=lambda _, __: None, taken=lambda _: []
            )
            try:
                await knock(self._common, channel, address, min(left, limits.handshake))
            except ConnectionRefusedError:
                refusals += 1
                if refusals == REFUSALS:
                    return "refused"
            except OSError:
                refusals = 0
                await asyncio.sleep(min(left, limits.retry_first))
            else:
                channel.close()
                return "alive"
        return "silent"

    async def identify(self, address: str) -> Proof | None:
        """Who proves itself at `host:port`, be it this node; None for nobody who answers.

        It introduces itself by another name: no node talks to itself, and a node that found its
        own address would be taken for a second one of its name.
        """
        limits = self._common.limits
        name = f"seeker-{self._chance.getrandbits(32):08x}"
        me = Party(self._cluster, name, self._incarnation(), "observer")
        common = self._common._replace(me=lambda: me)
        for _ in range(limits.attempts):
            channel = Dialled(common, Outbox(), "", replied=lambda _, __: None, taken=lambda _: [])
            try:
                party = await knock(common, channel, address, limits.handshake)
            except OSError:
                await asyncio.sleep(limits.retry_first)
            else:
                channel.close()
                return Proof(party.node, party.incarnation)
        return None

    def drop_all(self) -> None:
        """Close every stream: this node's incarnation changed, so each must shake hands again."""
        for link in self._links.values():
            link.drop()
        for accepted in tuple(self._accepted):
            accepted.close()

    def open_to(self) -> tuple[str, ...]:
        """The nodes that this engine has an open stream to."""
        return tuple(node for node, link in self._links.items() if link.up)

    async def start_listening(self, host: str, port: int) -> tuple[str, int]:
        """Accept streams at an address shared with the node's other engines; port 0 takes one.

        Raises:
            OSError: the address cannot be bound.
        """
        self._listening = await listen(
            host,
            port,
            self._accept,
            frame_bytes=self._common.limits.wire_bytes,
            upgrade_timeout=2 * self._common.limits.handshake,
            tls=self._common.tls,
        )
        return self._listening.address

    async def close(self) -> None:
        """Stop listening, close every stream, cancel what handlers still do."""
        self._closed = True
        if self._listening is not None:
            self._listening.close()
        links, self._links = list(self._links.values()), {}
        dialled = [link.channel for link in links if link.channel and link.channel.connected]
        channels = [*self._accepted, *dialled]
        tasks = [task for link in links if (task := link.close("this engine stops"))]
        for task in self._handling:
            task.cancel()
        await asyncio.gather(*tasks, *self._handling, return_exceptions=True)
        for channel in channels:
            channel.close()
        if channels:
            await asyncio.wait([channel.ended for channel in channels], timeout=_CLOSING)
        for channel in channels:
            channel.abort()

    def _party(self) -> Party:
        return Party(self._cluster, self._me, self._incarnation(), self._role, self._beginning())

    def _keys(self) -> Keys:
        secrets = self._secrets()
        if self._known_keys is None or self._known_keys[0] != secrets:
            self._known_keys = (secrets, Keys(secrets))
        return self._known_keys[1]

    def _hold(self) -> None:
        for node in self._directory:
            if node in self._kept:
                self._link(node).hold(True)
        for node, link in self._links.items():
            if node not in self._kept:
                link.hold(False)

    def _link(self, node: str) -> Link:
        """The link to a known node. Raises PeerUnavailable for another."""
        link = self._links.get(node)
        if link is not None:
            return link
        address = self._directory.get(node)
        if address is None or self._closed:
            why = "this engine stopped" if self._closed else "its address is not known"
            raise PeerUnavailable(node, why, sent=False)
        link = self._links[node] = Link(node, address, self._common, self._listener, self._chance)
        return link

    def _accept(self) -> Accepted | None:
        strangers = sum(accepted.stranger for accepted in self._accepted)
        if self._closed or strangers >= self._common.limits.strangers:
            self.counters.turned_away += 1
            return None
        return Accepted(self._common, self._handler, self._handling, self._accepted)
