"""Asks a discovery again and again, and finds out by handshakes who lives at its addresses."""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Final, NamedTuple, Protocol

from sessionha.discovery.base import Discovery, Found, Proof
from sessionha.errors import DiscoveryFailed

logger = logging.getLogger("sessionha.discovery")

PERIOD: Final = 5.0
"""Seconds between two rounds of who has found its cluster: as long as Kubernetes lets answers be
kept, so asking more often would show nothing new."""

SIDE_BY_SIDE: Final = 16
"""Handshakes at the same time."""

MOST: Final = 4096
"""Addresses that are looked at: more is a mistake in a zone, not a cluster."""


class Own(NamedTuple):
    """Who this node is, and where it listens."""

    node: str
    incarnation: str
    address: str


class Host(Protocol):
    """Whom the seeker works for: a node's topology manager, or a router."""

    @property
    def seeks(self) -> bool:
        """Whether it wants to know now; of a node's engines the one that leads does."""
        ...

    @property
    def settled(self) -> bool:
        """Whether it has found its cluster, so that there is no haste."""
        ...

    def own(self) -> Own | None:
        """Who announces itself; None for a router."""
        ...

    def members(self) -> Mapping[str, Proof]:
        """Who is known to live at which address: no handshake is needed there."""
        ...

    def found(self, directory: Mapping[str, Found]) -> None:
        """These nodes were found, by their IDs; the host itself is left out."""
        ...


class Seeker:
    """Rounds of asking, as long as it runs. What a round does not learn stays as it was.

    An address proves nothing. Who lives there says so in a handshake that only the cluster's
    secret makes possible, and then itself says where it is to be reached. So whoever writes records
    or keys can have a node dial in vain, and lead no member's messages elsewhere.
    """

    def __init__(
        self,
        discovery: Discovery,
        name: str,
        identify: Callable[[str], Awaitable[Proof | None]],
        host: Host,
        *,
        haste: float,
        chance: random.Random | None = None,
    ) -> None:
        """`name`: of the discovery, for logs, without passwords. `identify`: who proves itself at
        an address. `haste`: seconds between two rounds until the host is settled. `chance` spreads
        the rounds of many nodes."""
        self._discovery = discovery
        self._name = name
        self._identify = identify
        self._host = host
        self._haste = haste
        self._chance = chance or random.Random()
        self._proven: dict[str, Proof] = {}
        self._doubles: set[str] = set()
        self._cause = ""
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Begin to ask."""
        self._task = asyncio.get_running_loop().create_task(self._run())

    async def stop(self, *, withdraw: bool = False) -> None:
        """End; `withdraw`: the node stops, so nobody shall find it."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
        own = self._host.own()
        if withdraw and own is not None:
            with suppress(DiscoveryFailed):  # then it is forgotten after LEASE
                await self._discovery.withdraw(own.node)
        await self._discovery.close()

    async def _run(self) -> None:
        while True:
            try:
                if self._host.seeks:
                    await self.round()
            except Exception:
                logger.exception("looking for nodes through %s failed", self._name)
            calm = self._host.seeks and self._host.settled
            await asyncio.sleep((PERIOD if calm else self._haste) * self._chance.uniform(0.5, 1.0))

    async def round(self) -> None:
        """Announce the host, ask once, prove what is new, and tell who is where."""
        own = self._host.own()
        try:
            if own is not None:
                await self._discovery.announce(own.node, own.address)
            listed = sorted(await self._discovery.find())[:MOST]
        except DiscoveryFailed as error:
            self._complain(str(error))
            return
        self._recover()
        members = self._host.members()
        known = {address: members[address] for address in listed if address in members}
        passed = known.keys() | ({own.address} if own is not None else set())
        fresh = known | await self._prove([each for each in listed if each not in passed])
        earlier = {a: proof for a, proof in self._proven.items() if a in listed and a not in fresh}
        self._proven = fresh | earlier
        self._host.found(self._directory([*fresh.items(), *earlier.items()]))

    async def _prove(self, addresses: list[str]) -> dict[str, Proof]:
        free = asyncio.Semaphore(SIDE_BY_SIDE)

        async def prove(address: str) -> Proof | None:
            async with free:
                return await self._identify(address)

        proofs = await asyncio.gather(*(prove(address) for address in addresses))
        pairs = zip(addresses, proofs, strict=True)
        return {address: proof for address, proof in pairs if proof is not None}

    def _directory(self, proofs: list[tuple[str, Proof]]) -> dict[str, Found]:
        """One address for each node: a member's own first, then what was proven last."""
        own = self._host.own()
        found: dict[str, Found] = {}
        for address, proof in proofs:
            if own is not None and proof.node == own.node:
                self._meet_double(address, proof, own)
            else:
                found.setdefault(proof.node, Found(address, proof.incarnation))
        return found

    def _meet_double(self, address: str, proof: Proof, own: Own) -> None:
        """This node again, at another of its addresses; or another that has its name."""
        if proof.incarnation == own.incarnation or address in self._doubles:
            return
        self._doubles = {address, *(each for each in self._doubles if each in self._proven)}
        logger.warning(
            "another node at %s calls itself %s too, and the two ignore each other: give each its"
            " own ID (SESSIONHA_NODE)",
            address,
            own.node,
        )

    def _complain(self, cause: str) -> None:
        """Say once for each cause that nothing new is learnt."""
        if cause != self._cause:
            self._cause = cause
            logger.warning(
                "nodes cannot be looked up through %s: %s; those that are known stay",
                self._name,
                cause,
            )

    def _recover(self) -> None:
        if self._cause:
            self._cause = ""
            logger.info("nodes can be looked up through %s again", self._name)
