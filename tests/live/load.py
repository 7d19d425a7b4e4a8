"""Clients that write without end and remember what they were told."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import aiohttp

from demo_app.accounting import Ledger
from tests.live.clients import Browser
from tests.live.cluster import until

WRITERS = 6
PAUSE = 0.01
"""Seconds between two writes of one client: the machine has other things to do."""

TOKENS = 100
"""A client takes a new session after so many, so that answers stay small."""


class Writer:
    """A client behind a balancer that knows nothing: one token after the other, each through the
    next node. What it is told must be true for ever."""

    def __init__(self, number: int, http: aiohttp.ClientSession, urls: Sequence[str]) -> None:
        first = number % len(urls)
        self.sessions = [(Browser(http), Ledger())]
        self.acknowledged = 0
        self.unknown = 0
        """Writes that had no answer: they may be seen later, or never."""
        self._number = number
        self._urls = itertools.cycle([*urls[first:], *urls[:first]])
        self._tokens = itertools.count(1)

    async def run(self, over: asyncio.Event) -> None:
        """Write until it is over."""
        while not over.is_set():
            await self._write(next(self._urls))
            await asyncio.sleep(PAUSE)

    async def _write(self, url: str) -> None:
        number = next(self._tokens)
        browser, ledger = self.sessions[-1]
        if number % TOKENS == 0:
            browser, ledger = Browser(browser.http), Ledger()
            self.sessions.append((browser, ledger))
        token = f"{self._number}-{number}"
        ledger.send(token)
        try:
            answer = await browser.post(f"{url}/append", token=token)
        except aiohttp.ClientConnectorError:
            return
        except (aiohttp.ClientError, TimeoutError):
            self.unknown += 1
            return
        assert answer.status in (200, 503), answer
        if answer.status == 200:
            ledger.acknowledge(token)
            ledger.observe(answer["tokens"])
            self.acknowledged += 1

    async def read(self, urls: Sequence[str]) -> None:
        """See what every node has of every session."""
        for (browser, ledger), url in itertools.product(self.sessions, urls):
            if browser.cookies:  # else no answer ever came
                answer = await browser.get(f"{url}/read")
                assert answer.status == 200, (url, answer)
                ledger.observe(answer.session.get("tokens", []))

    @property
    def lost(self) -> set[str]:
        """What was acknowledged or seen, and is not there."""
        return set[str]().union(*(ledger.lost for _, ledger in self.sessions))

    @property
    def phantom(self) -> set[str]:
        """What was never written, or is there twice."""
        return set[str]().union(*(ledger.phantom for _, ledger in self.sessions))


@asynccontextmanager
async def writing(http: aiohttp.ClientSession, urls: Sequence[str]) -> AsyncIterator[list[Writer]]:
    """Clients that write meanwhile; at the end they read everything through every node."""
    writers = [Writer(number, http, urls) for number in range(WRITERS)]
    over = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        for writer in writers:
            tasks.create_task(writer.run(over))
        try:
            yield writers
        finally:
            over.set()
    for writer in writers:
        await writer.read(urls)


async def everybody_writes(writers: Sequence[Writer], times: int = 5) -> None:
    """Wait until each has had so many more writes acknowledged.

    Raises:
        Unexpected: one had not in time.
    """
    goals = [writer.acknowledged + times for writer in writers]

    async def written() -> bool:
        return all(w.acknowledged >= goal for w, goal in zip(writers, goals, strict=True))

    await until("every client can write", written)
