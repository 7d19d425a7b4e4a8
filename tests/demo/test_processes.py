"""The demo's processes: all of a server die together, and none outlives its supervisor."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from demo_app.processes import ROOT, Ports, Watchdog, dead, row_of, rows
from demo_app.watchdog import read

PARENT = """
import os, subprocess, sys, time
children = [subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"]) for _ in "ab"]
open(sys.argv[1], "w").write(" ".join(str(child.pid) for child in children))
time.sleep(600)
"""

SUPERVISOR = """
import os, sys, time
from pathlib import Path
from demo_app.processes import Watchdog
place = Path(sys.argv[1])
watchdog = Watchdog.start([place / "stores"])
command = [sys.executable, "-c", "import time; time.sleep(600)"]
group = watchdog.spawn(command, os.environ, place / "log")
(place / "pid.part").write_text(str(group.pid))
(place / "pid.part").rename(place / "pid")
time.sleep(600)
"""


async def appeared(file: Path) -> list[int]:
    """The process IDs in a file, once they are written."""
    async with asyncio.timeout(30):
        while not file.exists() or not file.read_text(encoding="ascii"):  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.02)
    return [int(pid) for pid in file.read_text(encoding="ascii").split()]  # noqa: ASYNC240


def test_the_watchdog_knows_what_is_left() -> None:
    lines = ["+10\n", "!/a\n", "+11\n", "-10\n", "!/b\n", "\n"]
    assert read(lines) == ({11}, ["/a", "/b"])


def test_ports_that_somebody_listens_on_are_left_out() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert Ports(port).take() > port


def test_this_process_is_among_the_rows() -> None:
    row = row_of(os.getpid())
    assert row is not None
    assert row.alive
    assert row in list(rows())


@pytest.mark.processes
async def test_a_kill_takes_every_process_of_a_server(tmp_path: Path) -> None:
    watchdog = Watchdog.start([])
    try:
        command = [sys.executable, "-c", PARENT, str(tmp_path / "pids")]
        group = watchdog.spawn(command, os.environ, tmp_path / "log")
        workers = await appeared(tmp_path / "pids")
        await group.kill()
        assert not group.running
        left = [row for row in map(row_of, workers) if row is not None and row.alive]
        assert left == []
        await group.kill()  # a second time: nothing
    finally:
        await watchdog.stop()


@pytest.mark.processes
async def test_servers_die_with_a_supervisor_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "stores").mkdir()
    command = [sys.executable, "-c", SUPERVISOR, str(tmp_path)]
    with subprocess.Popen(command, cwd=ROOT) as supervisor:  # noqa: ASYNC220
        try:
            (pid,) = await appeared(tmp_path / "pid")
        finally:
            supervisor.send_signal(signal.SIGKILL)
    await dead([pid])
    async with asyncio.timeout(30):
        while (tmp_path / "stores").exists():  # noqa: ASYNC110
            await asyncio.sleep(0.02)
