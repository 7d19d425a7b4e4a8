"""kill -9 of one server after the other, of three, while requests are under way at it.

    python -m tests.contract.under_load fastapi-uvicorn --kills 100      kinds are those of `kills`

Each browser counts in its session, at a server of the three that live, again and again. A server is
killed when all three are members and every browser has had an answer that another server confirmed
since; then it is started again. Must be 0: `lost` (an answer is behind one before it) and `phantom`
(ahead of what was ever asked). `unknown` requests were sent and had no answer, or 503.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import aiohttp

from tests.contract.kills import KINDS
from tests.contract.site import ContractCluster, Site, Visitor
from tests.live.cluster import until

BROWSERS = 8
"""As many as keep three servers on two cores busy."""

PAUSE = 0.01
"""Seconds of a browser between two requests, so that the servers have time for each other."""


@dataclass
class Told:
    """What came of it."""

    kills: int = 0
    answered: int = 0
    unknown: int = 0
    lost: int = 0
    phantom: int = 0
    errors: list[str] = field(default_factory=list)
    """Answers that are neither 200 nor 503."""

    @property
    def good(self) -> bool:
        return not (self.lost or self.phantom or self.errors)


class Browser:
    """Counts in its session, and knows what the number must be."""

    def __init__(self, site: Site, told: Told, living: Callable[[], Sequence[str]]) -> None:
        self._visitor = Visitor(site)
        self._told = told
        self._living = living
        self._low = self._high = 0
        self.confirmed = 0
        """Answers that say nothing of missing copies."""

    async def count(self, node: str) -> None:
        """One request."""
        told = self._told
        try:
            answer = await self._visitor.ask("count", node=node)
        except (aiohttp.ClientError, TimeoutError):
            answer = None
        if answer is None or answer.status == 503:
            self._high += 1
            told.unknown += 1
            return
        if answer.status != 200:
            told.errors.append(f"{answer.status} {answer.body[:200]}")
            return
        number = answer.json["n"]
        told.answered += 1
        told.lost += max(0, self._low + 1 - number)
        told.phantom += max(0, number - self._high - 1)
        self._low = self._high = number
        self.confirmed += all(name != "sessionha-copies" for name, _ in answer.headers)

    async def go_on(self, chance: random.Random, enough: asyncio.Event) -> None:
        """Until it is enough; nothing is under way then."""
        while not enough.is_set():
            await self.count(chance.choice(self._living()))
            await asyncio.sleep(PAUSE)


async def kill_again_and_again(
    commands: Sequence[Sequence[str]],
    kills: int,
    *,
    seed: int = 1,
    say: Callable[[str], object] = lambda text: None,
) -> Told:
    """See the module."""
    chance, told = random.Random(seed), Told()
    async with (
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(force_close=True, limit=0),
            timeout=aiohttp.ClientTimeout(total=20.0),
        ) as http,
        ContractCluster(*commands, nodes=3) as cluster,
    ):
        site = Site(cluster, http)
        for node in cluster.names:
            await site.serving(node)
        serving = set(cluster.names)
        browsers = [Browser(site, told, lambda: sorted(serving)) for _ in range(BROWSERS)]
        async with asyncio.TaskGroup() as group:
            enough = asyncio.Event()
            for each in browsers:
                group.create_task(each.go_on(chance, enough))
            for _ in range(kills):
                await _all_confirmed(browsers)
                victim = chance.choice(cluster.names)
                serving.discard(victim)
                await cluster.kill(victim)
                await _all_confirmed(browsers)  # by the two that live
                await cluster.start(victim)
                await site.serving(victim)
                serving.add(victim)
                told.kills += 1
                say(f"{told.kills} kills: {told.answered} answers, {told.lost} lost")
            await _all_confirmed(browsers)
            enough.set()
        for browser in browsers:
            for node in cluster.names:
                await browser.count(node)
    return told


async def _all_confirmed(browsers: Sequence[Browser]) -> None:
    before = [each.confirmed for each in browsers]

    async def confirmed() -> bool:
        return all(each.confirmed > old for each, old in zip(browsers, before, strict=True))

    await until("every browser's session has a copy", confirmed)


def main() -> int:
    """Run and report; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract.under_load",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kind", choices=KINDS)
    parser.add_argument("--kills", type=int, default=20, help="how many (default: 20)")
    parser.add_argument("--seed", type=int, default=1, help="which ones")
    given = parser.parse_args()
    work = kill_again_and_again(KINDS[given.kind], given.kills, seed=given.seed, say=print)
    told = asyncio.run(work)
    print(told)
    return 0 if told.good else 1


if __name__ == "__main__":
    sys.exit(main())
