"""The commands beside a real cluster."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from signal import SIGTERM
from typing import Any

import httpx
import pytest

from tests.security.cluster import PATIENCE, ROOT, Cluster, free_ports, running, until

COMMAND = (sys.executable, "-m", "sessionha")


def environment(cluster: Cluster) -> dict[str, str]:
    return {
        **os.environ,
        "SESSIONHA_SECRET": cluster.secret,
        "SESSIONHA_NODES": cluster.nodes,
    }


def asked(command: str, cluster: Cluster, index: int, *words: str) -> dict[str, Any]:
    done = subprocess.run(
        [*COMMAND, command, *words, "--json", "--url", f"127.0.0.1:{cluster.admins[index]}"],
        env=environment(cluster),
        cwd=ROOT,
        capture_output=True,
        check=False,  # a doctor that finds something says so by its exit code
        timeout=PATIENCE,
    )
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.processes
async def test_a_session_outlives_its_server_behind_the_router(tmp_path: Path) -> None:
    """`sessionha router` keeps a client with its server, and when that one is killed takes it to
    one that has the session; `sessionha status` tells what happened, and `sessionha doctor` what to
    do about it. System 7 (h): `sessionha heal` holds the seats of the dead one."""
    async with running(tmp_path) as cluster:
        (port,) = free_ports(1)
        router = await asyncio.create_subprocess_exec(
            *COMMAND, "router", "--listen", f"127.0.0.1:{port}", "--health-path", "/up",
            env=environment(cluster), cwd=ROOT, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            async with httpx.AsyncClient(
                base_url=f"http://127.0.0.1:{port}", trust_env=False, timeout=PATIENCE
            ) as client:

                async def up() -> bool:
                    return (await client.get("/up")).is_success

                await until(up)
                answers = [(await client.post("/add")).json() for _ in range(3)]
                assert [answer["n"] for answer in answers] == [1, 2, 3]
                (pid,) = {answer["pid"] for answer in answers}

                primary = cluster.index_of(pid)
                cluster.kill(primary)

                answer = (await client.post("/add")).json()
                assert (answer["n"], answer["pid"] == pid) == (4, False)
                assert (await client.post("/add")).json() == {**answer, "n": 5}

            survivor = cluster.index_of(answer["pid"])
            found = await asyncio.to_thread(asked, "status", cluster, survivor)
            assert len(found["members"]) == 2
            [other] = found["others"]
            delay = other.pop("delay")
            assert other == {"node": f"n{primary}", "state": "absent", "awaited": True}
            assert (delay["word"], delay["left"] + delay["absent"]) == (None, pytest.approx(30.0))
            assert found["counts"]["state/promotions"] == 1
            assert found["counts"]["state/commits"] == 2
            said = await asyncio.to_thread(
                asked, "heal", cluster, survivor, f"n{primary}", "--hold"
            )
            assert (said["left"], len(said["told"])) == (None, 1)
            found = await asyncio.to_thread(
                asked, "safe-to-stop", cluster, survivor, f"n{survivor}"
            )
            assert found["lost"]["sessions"] == 0, "what was written meanwhile has its copy"
            assert (found["safe"], found["others_serve"]) == (False, True)
            assert not found["others_change"], "the last one could copy its changes to nobody"
            found = await asyncio.to_thread(asked, "heal", cluster, survivor)
            assert (found["delays"][0]["word"], found["counts"]["replaced"]) == ("hold", 1)
            found = await asyncio.to_thread(asked, "doctor", cluster, survivor)
            problems = {row["check"]: row for row in found["checks"] if row["outcome"] != "ok"}
            assert problems.keys() >= {"peers", "majority"}
            assert f"n{primary} at 127.0.0.1:" in problems["peers"]["found"]
        finally:
            router.terminate()
            await asyncio.wait_for(router.wait(), PATIENCE)
        assert router.returncode in (0, -SIGTERM)
