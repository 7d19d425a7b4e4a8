"""kill -9 in mid-session: nothing that was acknowledged is lost, whatever the framework and server.

    python -m tests.contract.kills flask-gevent --kills 100      without a kind: all, one by one

Three real nodes. In each round some browsers write through one node, which dies right after its
last answer; each must then find all that it ever wrote through one of the others, and write on. The
dead node is started again with what its store has kept, and the next round kills another one.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import aiohttp

from demo_app.accounting import Ledger
from tests.contract.site import (
    ContractCluster,
    Site,
    Visitor,
    gevent,
    gthread,
    gunicorn_sync,
    uvicorn,
    uwsgi,
)

NODES: Final = 3
BROWSERS: Final = 4

KINDS: Final[Mapping[str, Sequence[Sequence[str]]]] = {
    "flask-sync": [gunicorn_sync("flask_app:app")],
    "flask-gevent": [gevent("flask_app:app")],
    "flask-mixed": [serve("flask_app:app") for serve in (gunicorn_sync, gevent, gthread)],
    "asgi-uvicorn": [uvicorn("asgi_app:app")],
    "wsgi-gthread": [gthread("wsgi_app:app")],
    "wsgi-uwsgi": [uwsgi("uwsgi_app:app")],
    "litestar-uvicorn": [uvicorn("litestar_app:app")],
    "quart-uvicorn": [uvicorn("quart_app:app")],
    "fastapi-uvicorn": [uvicorn("fastapi_app:app")],
    "django-gthread": [gthread("django_app:wsgi")],
    "django-uvicorn": [uvicorn("django_app:asgi")],
    "django-mixed": [
        gthread("django_app:wsgi"),
        uvicorn("django_app:asgi"),
        uvicorn("django_app:threads"),
    ],
}
"""The commands of the nodes, in turn."""


@dataclass
class Outcome:
    """What a run has shown."""

    kills: int = 0
    writes: int = 0
    lost: set[str] = field(default_factory=set)
    phantom: set[str] = field(default_factory=set)
    refused: int = 0
    """Requests that were answered with anything but 200."""

    def __str__(self) -> str:
        told = f"{self.kills} kills, {self.writes} writes: {len(self.lost)} lost"
        return f"{told}, {len(self.phantom)} phantom, {self.refused} refused"


class Client:
    """A browser that remembers what it wrote."""

    def __init__(self, visitor: Visitor, number: int, outcome: Outcome) -> None:
        self._visitor = visitor
        self._ledger = Ledger()
        self._tokens = (f"{number}-{count}" for count in itertools.count(1))
        self._outcome = outcome

    async def write(self, node: str) -> None:
        """One more token through this node, whose answer must show all."""
        token = next(self._tokens)
        self._ledger.send(token)
        answer = await self._visitor.ask("append", node=node, token=token)
        if answer.status != 200:
            self._outcome.refused += 1
            return
        self._outcome.writes += 1
        self._ledger.acknowledge(token)
        self._ledger.observe(answer.json["items"])
        self._outcome.lost |= self._ledger.lost
        self._outcome.phantom |= self._ledger.phantom


async def run(kind: str, kills: int) -> Outcome:
    """So many kills, one node after the other."""
    outcome = Outcome()
    async with (
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(),
            connector=aiohttp.TCPConnector(force_close=True),
            timeout=aiohttp.ClientTimeout(total=20.0),
        ) as http,
        ContractCluster(*KINDS[kind], nodes=NODES) as cluster,
    ):
        site = Site(cluster, http)
        for node in cluster.names:
            await site.serving(node)
        clients = [Client(site.visitor(), number, outcome) for number in range(BROWSERS)]
        for victim in itertools.islice(itertools.cycle(cluster.names), kills):
            for client in clients:
                await client.write(victim)
            await cluster.kill(victim)
            outcome.kills += 1
            for client, node in zip(clients, itertools.cycle(cluster.living), strict=False):
                await client.write(node)
            await cluster.start(victim)
            await site.serving(victim)
    return outcome


def main() -> int:
    """Run and report; 0 when nothing was lost."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.contract.kills",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("kinds", nargs="*", metavar="KIND", help=", ".join(KINDS))
    parser.add_argument("--kills", type=int, default=100, help="of each kind (default: 100)")
    given = parser.parse_args()
    sound = True
    for kind in given.kinds or KINDS:
        outcome = asyncio.run(run(kind, given.kills))
        print(f"{kind}: {outcome}", flush=True)
        sound = sound and not (outcome.lost or outcome.phantom)
    return 0 if sound else 1


if __name__ == "__main__":
    sys.exit(main())
