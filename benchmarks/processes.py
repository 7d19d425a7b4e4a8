"""Starts the processes of a measurement, pins each to a core, and ends every one of them."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import IO, NamedTuple

READY_WITHIN = 20.0
"""Seconds: a Python server imports its application in one; a loaded machine takes a few."""

_TICKS = os.sysconf("SC_CLK_TCK")
_ROOT = str(Path(__file__).resolve().parent.parent)


class NotStarted(RuntimeError):
    """A process of the measurement ended, or never listened; carries what it printed."""


class Cores:
    """Which core serves, which one makes the load, and which one holds Redis or the backup.

    The same for every variant. On two cores the load and the helpers share the second, so that
    the server under test has one to itself; on one core everything shares it.
    """

    def __init__(self) -> None:
        cores = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else [0]
        self.server = cores[0]
        self.load = cores[1 % len(cores)]
        self.helper = cores[2] if len(cores) > 2 else self.load


class Server(NamedTuple):
    """A process that serves the application."""

    pid: int
    port: int

    def cpu(self) -> float:
        """Seconds of CPU that it has used."""
        words = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(words[11]) + int(words[12])) / _TICKS  # utime and stime


class Processes:
    """A context in which processes run; leaving it ends them all and removes their directories.

    `directory` is for files, `memory` for stores: in shared memory where there is some.
    """

    def __init__(self) -> None:
        self.cores = Cores()
        self._running: list[subprocess.Popen[bytes]] = []
        self._logs: dict[int, Path] = {}
        self.directory = Path()
        self.memory = Path()
        self.others = 0.0
        """After the context: how many cores other work on this machine kept busy meanwhile."""
        self._began = (0.0, 0.0, 0.0)

    def __enter__(self) -> Processes:
        self.directory = Path(tempfile.mkdtemp(prefix="benchmark-"))
        shared = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
        self.memory = Path(tempfile.mkdtemp(prefix="benchmark-", dir=shared))
        self._began = _times()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for process in self._running:
            process.terminate()
        for process in self._running:
            end(process)
        shutil.rmtree(self.directory, ignore_errors=True)
        shutil.rmtree(self.memory, ignore_errors=True)
        clock, busy, own = (now - then for now, then in zip(_times(), self._began, strict=True))
        self.others = max(0.0, busy - own) / max(clock, 1 / _TICKS)

    def start(
        self,
        name: str,
        command: Sequence[str],
        core: int,
        environment: Mapping[str, str] | None = None,
        *,
        pipes: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Run `command` on one core, its output in a file; `pipes`: talk to it instead."""
        log = self.directory / f"{len(self._running)}-{name}.log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                env=child_environment(environment or {}),
            )
        pin(process.pid, core)
        self._running.append(process)
        self._logs[process.pid] = log
        return process

    def await_port(self, process: subprocess.Popen[bytes], port: int) -> None:
        """Return when `port` accepts connections. NotStarted: the process ended or is silent."""
        deadline = time.monotonic() + READY_WITHIN
        while time.monotonic() < deadline and process.poll() is None:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    return
            time.sleep(0.02)
        raise NotStarted(self.said(process))

    def said(self, process: subprocess.Popen[bytes]) -> str:
        """The last lines that a process printed."""
        lines = self._logs[process.pid].read_text(errors="replace").splitlines()
        return "\n".join([f"{Path(str(process.args[0])).name}:", *lines[-30:]])  # type: ignore[index]

    def redis(self) -> str:
        """Start a redis-server that persists nothing; its URL."""
        port = free_port()
        command = [
            *("redis-server", "--bind", "127.0.0.1", "--port", str(port)),
            *("--save", "", "--appendonly", "no", "--dir", str(self.directory)),
        ]
        self.await_port(self.start("redis", command, self.cores.helper), port)
        return f"redis://127.0.0.1:{port}/0"

    def python(
        self,
        module: str,
        arguments: Sequence[str],
        core: int,
        environment: Mapping[str, str] | None = None,
        *,
        pipes: bool = False,
    ) -> subprocess.Popen[bytes]:
        """Run a module with this interpreter."""
        command = [sys.executable, "-m", module, *arguments]
        return self.start(module.rpartition(".")[2], command, core, environment, pipes=pipes)

    def serve(self, environment: Mapping[str, str], core: int) -> Server:
        """Serve the application with one uvicorn worker."""
        port = free_port()
        arguments = [
            *("benchmarks.application:create", "--factory", "--port", str(port)),
            *("--loop", "uvloop", "--http", "httptools", "--ws", "none"),
            *("--lifespan", "on", "--no-access-log", "--log-level", "warning"),
        ]
        process = self.python("uvicorn", arguments, core, environment)
        self.await_port(process, port)
        return Server(process.pid, port)


def _times() -> tuple[float, float, float]:
    """Seconds: the clock, all cores' work, and the work of this process and its ended children."""
    own = os.times()
    words = Path("/proc/stat").read_text().split(maxsplit=9)
    user, nice, system, _, _, interrupts, soft = map(int, words[1:8])
    busy = (user + nice + system + interrupts + soft) / _TICKS
    return time.monotonic(), busy, own.user + own.system + own.children_user + own.children_system


def child_environment(extra: Mapping[str, str]) -> dict[str, str]:
    """This environment without settings of sessionha, with this checkout importable."""
    inherited = {
        name: value for name, value in os.environ.items() if not name.startswith("SESSIONHA_")
    }
    adapters = os.path.join(_ROOT, "adapters")
    path = os.pathsep.join(filter(None, (_ROOT, adapters, inherited.get("PYTHONPATH"))))
    return {**inherited, "PYTHONPATH": path, "PYTHONHASHSEED": "0", **extra}


def pin(pid: int, core: int) -> None:
    """Keep a process on one core, where the platform can."""
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(pid, {core})


def end(process: subprocess.Popen[bytes]) -> None:
    """Wait five seconds for a terminated process, then kill it."""
    try:
        process.wait(5)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    for stream in (process.stdin, process.stdout):
        close(stream)


def close(stream: IO[bytes] | None) -> None:
    """Close a pipe whose reader may be gone."""
    if stream is not None:
        with suppress(BrokenPipeError):
            stream.close()


def free_port() -> int:
    """A TCP port of the loopback that nobody listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def has_program(name: str) -> bool:
    """Whether a program can be run by this name."""
    return shutil.which(name) is not None
