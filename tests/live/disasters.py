"""One disaster after the other for five nodes on hosts of their own, while clients write.

Each is drawn from a seed: one node or two killed, one or two stopped for a while, a partition of
three and two or of four and one, one direction of some links cut, a death meanwhile. After each,
all five must be members again and every client able to write. In the end every session is read
through every node. Must be 0: `lost` (an acknowledged or seen write is missing, then or in any
answer before) and `phantom` (something was never written, or is there twice). `unknown` writes were
sent and had no answer.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections import Counter
from collections.abc import Awaitable, Callable
from itertools import permutations
from random import Random

from tests.live.cluster import Cluster, Unexpected
from tests.live.hosts import NAMES, clients, five
from tests.live.load import Writer, everybody_writes, writing
from tests.live.namespaces import Network, Unavailable

SHORT = (0.2, 1.5)
"""Seconds around the time in which silence is noticed."""
LONG = (0.5, 4.0)
"""Seconds that mostly end with a view without who is silent."""


class Disasters:
    """What can happen to the nodes; everybody is well again when a disaster returns."""

    def __init__(self, cluster: Cluster, network: Network, chance: Random) -> None:
        self._cluster = cluster
        self._network = network
        self._chance = chance
        self.kinds: dict[str, Callable[[], Awaitable[None]]] = {
            "one killed": lambda: self._kill(1),
            "two killed": lambda: self._kill(2),
            "one stopped": lambda: self._stop(1, LONG),
            "two stopped": lambda: self._stop(2, SHORT),
            "three and two": lambda: self._split(2),
            "four and one": lambda: self._split(1),
            "killed when apart": self._kill_apart,
            "killed behind cuts": self._kill_behind_cuts,
            "one direction cut": lambda: self._cut(1),
            "some directions cut": lambda: self._cut(6),
        }

    async def one(self) -> str:
        """Its name. Unexpected: the nodes did not all become members again."""
        name = self._chance.choice(list(self.kinds))
        await self.kinds[name]()
        await self._cluster.settled(NAMES)
        return name

    def _some(self, number: int) -> list[str]:
        return self._chance.sample(NAMES, number)

    async def _while(self, seconds: tuple[float, float]) -> None:
        await asyncio.sleep(self._chance.uniform(*seconds))

    async def _kill(self, number: int) -> None:
        victims = self._some(number)
        await self._cluster.kill(*victims)
        await self._while(SHORT)
        await self._cluster.start(*victims)

    async def _stop(self, number: int, seconds: tuple[float, float]) -> None:
        victims = self._some(number)
        for name in victims:
            self._cluster.freeze(name)
        await self._while(seconds)
        for name in victims:
            self._cluster.thaw(name)

    async def _split(self, number: int) -> None:
        apart = self._some(number)
        self._network.split(apart, [name for name in NAMES if name not in apart])
        await self._while(LONG)
        self._network.mend()

    async def _kill_apart(self) -> None:
        apart = self._some(2)
        self._network.split(apart, [name for name in NAMES if name not in apart])
        await self._while(LONG)
        await self._cluster.kill(apart[0])
        self._network.mend()
        await self._cluster.start(apart[0])

    async def _kill_behind_cuts(self) -> None:
        (victim,) = self._some(1)
        self._network.cut(*self._chance.sample(list(permutations(NAMES, 2)), 3))
        await self._while(LONG)
        await self._cluster.kill(victim)
        await self._while(SHORT)
        self._network.mend()
        await self._cluster.start(victim)

    async def _cut(self, number: int) -> None:
        ways = self._chance.sample(list(permutations(NAMES, 2)), number)
        self._network.cut(*ways)
        await self._while(LONG)
        self._network.mend()


async def run(number: int, seed: int, workers: int) -> dict[str, object]:
    """The report, which `passed` judges."""
    happened: Counter[str] = Counter()
    with Network(NAMES) as network:
        async with clients(network) as http, five(network, workers=workers) as cluster:
            urls = [server.url for server in cluster.servers.values()]
            disasters = Disasters(cluster, network, Random(seed))
            async with writing(http, urls) as writers:
                await everybody_writes(writers)
                for count in range(1, number + 1):
                    name = await disasters.one()
                    happened[name] += 1
                    await everybody_writes(writers)
                    told = json.dumps(_counted(writers))
                    print(f"{count}/{number}: {name}; {told}", file=sys.stderr)
    return {"disasters": dict(sorted(happened.items())), **_counted(writers)}


def _counted(writers: list[Writer]) -> dict[str, int]:
    return {
        "acknowledged": sum(writer.acknowledged for writer in writers),
        "lost": sum(len(writer.lost) for writer in writers),
        "phantom": sum(len(writer.phantom) for writer in writers),
        "unknown": sum(writer.unknown for writer in writers),
    }


def main(number: int, seed: int, workers: int) -> int:
    """Print the report as the last line; 0 when nothing was lost or invented, else 1."""
    try:
        told = asyncio.run(run(number, seed, workers))
    except (Unavailable, Unexpected) as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(told))
    return 0 if told["lost"] == told["phantom"] == 0 else 1
