"""`python -m demo_app.together`: one client of both applications, whose servers are killed."""

from __future__ import annotations

import argparse
import asyncio
import sys
from collections.abc import Callable
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

import aiohttp

from demo_app.together.cluster import Together

GROUP_CHARS = 16
"""Of a session ID: what names the group, which is all sessions of one client."""


class Where(NamedTuple):
    """What the client's cookies say of its sessions."""

    groups: frozenset[str]
    """Of both; one, if they are together."""
    servers: list[str]
    """Who serves, and who has copies."""


class Browser:
    """A client of both applications."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self._url = url
        self.cookies: dict[str, str] = {}

    async def get(self, path: str) -> dict[str, Any]:
        return await self._ask("GET", path)

    async def post(self, path: str) -> dict[str, Any]:
        return await self._ask("POST", path)

    async def _ask(self, method: str, path: str) -> dict[str, Any]:
        headers = {"Cookie": "; ".join(f"{name}={text}" for name, text in self.cookies.items())}
        async with self._http.request(method, self._url + path, headers=headers) as response:
            for header in response.headers.getall("Set-Cookie", []):
                for name, morsel in SimpleCookie(header).items():
                    self.cookies[name] = morsel.value
            response.raise_for_status()
            told: dict[str, Any] = await response.json()
            return told

    @property
    def where(self) -> Where:
        """Where its sessions are."""
        groups = {self.cookies[name][:GROUP_CHARS] for name in ("session", "sessionid")}
        names = self.cookies["hsr"].split(".")[1]
        return Where(frozenset(groups), [name.partition("--")[0] for name in names.split("~")])


async def show(kills: int, say: Callable[[str], object], nodes: int = 3) -> list[str]:
    """Kill the server of a client's two sessions so often. What went wrong; nothing, if all is
    well."""
    wrong: list[str] = []
    async with (
        Together(nodes) as cluster,
        aiohttp.ClientSession(
            cookie_jar=aiohttp.DummyCookieJar(), timeout=aiohttp.ClientTimeout(total=20.0)
        ) as http,
    ):
        browser = Browser(http, cluster.url)
        await browser.post("/cart/tea")
        await browser.get("/members/log-in/ada")
        cart = ["tea"]
        for number in range(1, kills + 1):
            groups, servers = browser.where
            say(f"both sessions: {len(groups)} group; {servers[0]} serves, {servers[1]} has a copy")
            if len(groups) != 1:
                wrong.append(f"before kill {number} the sessions are in two groups")
            victim = servers[0]
            await cluster.kill(victim)
            say(f"kill -9 of {victim}, shop and members")
            shop, members = await asyncio.gather(browser.get("/cart"), browser.get("/members/"))
            say(f"{shop['node']}: cart {shop['cart']}; {members['node']}: user {members['user']}")
            if shop["cart"] != cart or members["user"] != "ada":
                wrong.append(f"lost by kill {number}: {shop}, {members}")
            if shop["node"] != members["node"]:
                wrong.append(f"after kill {number} two servers serve: {shop}, {members}")
            await cluster.start(victim)
            cart.append(f"article-{number}")
            await browser.post(f"/cart/article-{number}")
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m demo_app.together", description=__doc__)
    parser.add_argument("--kills", type=int, default=3, help="how many (default: 3)")
    options = parser.parse_args()
    wrong = asyncio.run(show(options.kills, print))
    print("\n".join(wrong) or f"{options.kills} kills, nothing was lost")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
