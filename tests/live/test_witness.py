"""Two servers and a vote: either may die, and the other goes on, in quorum mode."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import aiohttp

from demo_app.processes import Group
from tests.live.clients import Browser
from tests.live.cluster import Cluster, free_port, until

DESCRIBED = """
[[node]]
id = "n1"
peer = "{n1}"
[[node]]
id = "n2"
peer = "{n2}"
[[node]]
id = "w"
peer = "{w}"
role = "witness"
"""


class Pair(Cluster):
    """Servers n1 and n2, and the witness w, which is a process of its own or the router."""

    def __init__(self, words: Sequence[str] = ("witness",)) -> None:
        super().__init__(2, late=("n1", "n2"))
        peers = {name: server.peer for name, server in self.servers.items()}
        peers["w"] = f"127.0.0.1:{free_port()}"
        file = self._place / "cluster.toml"
        file.write_text(DESCRIBED.format(**peers), encoding="utf-8")
        self.tell(nodes="", config=file)
        self._words = words
        self.witness: Group | None = None

    async def __aenter__(self) -> Pair:
        await super().__aenter__()
        self.launch("n1")
        self.launch("n2")
        self.start_witness()
        await self.agreed("n1", "n2", "w")
        return self

    def start_witness(self) -> None:
        own = {
            "SESSIONHA_NODE": "w",
            "SESSIONHA_STORE": str(self._place / "w"),
            "SESSIONHA_STATE_DIR": str(self._place / "w-state"),
        }
        command = [sys.executable, "-m", "sessionha", *self._words]
        self.witness = self.watchdog.spawn(command, {**self.environment, **own}, self.log)

    async def kill_witness(self) -> None:
        assert self.witness is not None
        await self.witness.kill()
        self.witness = None

    async def close(self, *, failed: bool = False) -> None:
        if self.witness is not None:
            await self.witness.kill()
        await super().close(failed=failed)

    @property
    def log(self) -> Path:
        return self._place / "w.log"

    async def agreed(self, *members: str) -> dict[str, Any]:
        """Wait until the living servers have a view of these members; what one of them says."""
        told: list[dict[str, Any]] = []

        async def agree() -> bool:
            asked = await asyncio.gather(*(self._told(name) for name in self.living))
            told[:] = [each for each in asked if each is not None]
            wanted = set(members)
            return len(told) == len(asked) and all(set(each["members"]) == wanted for each in told)

        await until(f"{members} are the members", agree, 60)
        return told[0]


async def count(browser: Browser, url: str) -> int:
    """Add one, as soon as that is possible."""
    answers: list[int] = []

    async def counted() -> bool:
        with suppress(aiohttp.ClientConnectorError):  # it does not listen yet
            answer = await browser.post(f"{url}/increment")
            if answer.status == 200:
                answers.append(answer["n"])
        return bool(answers)

    await until(f"{url} commits", counted)
    return answers[0]


async def test_of_a_pair_with_a_witness_anyone_may_die(browser: Browser) -> None:
    """Contract, section 2: it has a vote, no data, and is never in C; the survivor of the pair goes
    on, and what it wrote alone is there when the other is back."""
    async with Pair() as cluster:
        assert await count(browser, cluster["n1"].url) == 1
        assert set(browser.route.servers) == {"n1", "n2"}

        await cluster.kill_witness()
        await cluster.agreed("n1", "n2")
        assert await count(browser, cluster["n2"].url) == 2
        cluster.start_witness()
        await cluster.agreed("n1", "n2", "w")

        for dead, alive in (("n1", "n2"), ("n2", "n1")):
            before = (await browser.get(f"{cluster[alive].url}/read")).session["n"]
            await cluster.kill(dead)
            await cluster.agreed(alive, "w")
            assert await count(browser, cluster[alive].url) == before + 1
            assert browser.route.servers == (alive,)
            cluster.launch(dead)
            await cluster.agreed("n1", "n2", "w")
            assert await count(browser, cluster[dead].url) == before + 2
            assert set(browser.route.servers) == {"n1", "n2"}
        assert (await cluster.ask("n1"))["unproven"] == []
        assert "WARNING sessionha.engine" not in cluster.log.read_text(encoding="utf-8")


async def test_the_router_of_a_pair_can_be_its_witness(browser: Browser) -> None:
    """One process less: it routes, and votes."""
    listen = f"127.0.0.1:{free_port()}"
    async with Pair(["router", "--witness", "--listen", listen]) as cluster:
        assert await count(browser, f"http://{listen}") == 1
        await cluster.kill(browser.primary)
        assert await count(browser, f"http://{listen}") == 2
        await cluster.agreed(*cluster.living, "w")
