"""Opens what follows a cluster's view without being a node of it: for the router and `follow`."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterator, Mapping
from typing import Final

from sessionha.discovery.base import Found, Proof
from sessionha.discovery.seeker import Seeker
from sessionha.discovery.source import open_source
from sessionha.identity import new_incarnation
from sessionha.peer.base import Sender
from sessionha.peer.messages import Message
from sessionha.peer.streams import Streams
from sessionha.router.follow import Follower
from sessionha.settings import Settings
from sessionha.view import View

HASTE: Final = 0.5
"""Seconds between two looks for nodes until the first view is followed."""


def lacking(settings: Settings, who: str) -> Iterator[str]:
    """What `who` must be told before it can follow a cluster."""
    if not settings.has_nodes:
        yield (
            "`nodes` is empty: name the cluster's nodes and their peer addresses, for instance"
            " SESSIONHA_NODES=n1=http://10.0.0.1:7946, or where to find them: dns://…, redis://…"
        )
    if not settings.secret:
        yield f"`secret` is not set: give {who} the nodes' SESSIONHA_SECRET"


class ClusterObserver:
    """Follows the view over peer streams; opened and closed with the router."""

    def __init__(self, settings: Settings, changed: Callable[[View], None]) -> None:
        """Raises InvalidSettings when what finds the nodes cannot be used."""
        incarnation = new_incarnation()
        self._secret = settings.secret
        self._streams = Streams(
            f"router-{secrets.token_hex(4)}",
            settings.cluster,
            _say_nothing,
            secrets=lambda: self._secret,
            incarnation=lambda: incarnation,
            role="observer",
        )
        self._follower = Follower(self._streams, dict(settings.description.addresses), changed)
        self._seeker: Seeker | None = None
        if settings.discovery is not None:
            self._seeker = Seeker(
                open_source(settings.discovery, settings.cluster),
                str(settings.discovery),
                self._streams.identify,
                _Seeking(self._follower),
                haste=HASTE,
            )

    def start(self) -> None:
        """Begin to follow."""
        self._follower.start()
        if self._seeker is not None:
            self._seeker.start()

    def use(self, settings: Settings) -> None:
        """Follow with the secret of these settings, and by the nodes that they write down."""
        self._secret = settings.secret
        if settings.description.addresses:
            self._follower.seek(settings.description.addresses)

    async def stop(self) -> None:
        """Stop following and close the streams."""
        if self._seeker is not None:
            await self._seeker.stop()
        await self._follower.stop()
        await self._streams.close()


class _Seeking:
    """What the seeker asks of a router, and tells it."""

    seeks = True

    def __init__(self, follower: Follower) -> None:
        self._follower = follower

    @property
    def settled(self) -> bool:
        return bool(self._follower.view.members)

    def own(self) -> None:
        """A router is no node: it announces nothing."""

    def members(self) -> Mapping[str, Proof]:
        members = self._follower.view.members
        return {member.peer: Proof(member.node, member.incarnation) for member in members}

    def found(self, directory: Mapping[str, Found]) -> None:
        self._follower.seek({node: each.address for node, each in directory.items()})


def _say_nothing(sender: Sender, message: Message) -> None:
    """An observer asks; nobody has anything to ask it."""
