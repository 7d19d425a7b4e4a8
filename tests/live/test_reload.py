"""A node of several processes that is told to read its file again."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from pathlib import Path
from typing import Any

import httpx

from sessionha.admin.tokens import tokens
from sessionha.settings import Settings
from tests.security.cluster import ROOT, Cluster, free_ports, running, until


async def reload(cluster: Cluster) -> tuple[int, str]:
    """What `sessionha reload` says of the first node, and how it ends."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sessionha", "reload"),
        *("--url", f"127.0.0.1:{cluster.admins[0]}"),
        cwd=ROOT,
        env={**os.environ, "SESSIONHA_SECRET": cluster.secret},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    output, _ = await process.communicate()
    assert process.returncode is not None
    return process.returncode, output.decode()


async def ask(cluster: Cluster, path: str) -> dict[str, Any]:
    """What the first node's administration answers."""
    token = tokens(Settings.observe({}, secret=cluster.secret), "read")[0]
    async with httpx.AsyncClient(trust_env=False) as client:
        url = f"http://127.0.0.1:{cluster.admins[0]}{path}"
        answer = await client.get(url, headers={"authorization": f"Bearer {token}"})
    found: dict[str, Any] = answer.json()
    return found


async def described(cluster: Cluster) -> str:
    found: str = (await ask(cluster, "/v1/topology"))["description"]["hash"]
    return found


async def test_every_process_of_a_node_follows_and_a_wrong_file_changes_nothing(
    tmp_path: Path,
) -> None:
    """The process that leads is killed after the reload: a sibling, which nobody told, goes on with
    the new description."""
    file = tmp_path / "cluster.toml"
    ports = free_ports(2)

    def write(**of_n1: object) -> None:
        fields = "".join(f"{name} = {value!r}\n" for name, value in of_n1.items())
        nodes = (
            f'[[node]]\nid = "n{index}"\npeer = "127.0.0.1:{port}"\n' + fields * index
            for index, port in enumerate(ports)
        )
        file.write_text("[cluster]\nbackups = 1\n" + "".join(nodes))

    write()
    extra = {"SESSIONHA_NODES": "", "SESSIONHA_CONFIG": str(file)}
    async with running(tmp_path, extra, nodes=2, workers=2) as cluster:
        leader, before = (await ask(cluster, "/v1/status"))["pid"], await described(cluster)
        write(wieght=5)
        code, told = await reload(cluster)
        assert code == 1
        assert "line 6, [[node]]: node n1: unknown key `wieght`; did you mean `weight`?" in told
        assert await described(cluster) == before
        write(weight=5)
        assert await reload(cluster) == (0, "n0: n1: `weight` 1 → 5\n")
        after = await described(cluster)
        assert after != before

        async def followed() -> bool:
            return cluster.logs[0].read_text().count("reloaded its settings: n1: `weight`") == 2

        await until(followed)
        os.kill(leader, signal.SIGKILL)

        async def another_leads() -> bool:
            return bool((await ask(cluster, "/v1/status"))["pid"] != leader)

        await until(another_leads)
        assert await described(cluster) == after
