"""Directories in memory, small file systems, and engines in processes of their own."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

MIB = 1 << 20


@pytest.fixture
def directory() -> Iterator[Path]:
    """A place for a store, on a tmpfs where there is one; not made yet."""
    base = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    parent = Path(tempfile.mkdtemp(prefix="sessionha-test-", dir=base))
    yield parent / "store"
    shutil.rmtree(parent)


@pytest.fixture
def tmpfs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a real tmpfs of the given size; skipped where mounting is not permitted."""
    mounted: list[Path] = []

    def mount(size: str) -> Path:
        point = tmp_path / f"tmpfs-{len(mounted)}"
        point.mkdir()
        if os.geteuid() != 0:
            pytest.skip("mounting a tmpfs needs root")
        done = subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(point)],
            capture_output=True,
            check=False,
            text=True,
        )
        if done.returncode:
            if "permission" in done.stderr.lower() or "permitted" in done.stderr.lower():
                pytest.skip("mounting a tmpfs is not permitted here")
            pytest.fail(f"cannot mount a tmpfs: {done.stderr}")
        mounted.append(point)
        return point

    yield mount
    for point in mounted:
        subprocess.run(["umount", "-l", str(point)], check=True)


class Engine:
    """A process that runs a few lines with `store` open, prints `ready` and waits for input."""

    def __init__(self, directory: Path, code: str, size: int) -> None:
        program = (
            "import sys, os\n"
            "from sessionha.store import LMDBStore\n"
            f"store = LMDBStore({os.fspath(directory)!r}, size={size}).open()\n"
            f"{code}\n"
            "print('ready', flush=True)\n"
            "sys.stdin.readline()\n"
        )
        self.process = subprocess.Popen(
            [sys.executable, "-c", program],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        )

    def until_ready(self) -> list[str]:
        """The lines it printed before `ready`."""
        assert self.process.stdout is not None
        lines: list[str] = []
        for line in self.process.stdout:
            if line.strip() == "ready":
                return lines
            lines.append(line.strip())
        raise AssertionError(f"the engine ended with {self.process.wait()}: {lines}")

    def kill(self) -> None:
        """SIGKILL, and wait until the kernel has dropped its locks."""
        self.process.send_signal(signal.SIGKILL)
        self.end()

    def end(self) -> None:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        if not self.process.stdin.closed:
            self.process.stdin.close()
        self.process.wait(20)
        self.process.stdout.close()


StartEngine = Callable[..., Engine]


@pytest.fixture
def engine(directory: Path) -> Iterator[StartEngine]:
    """Starts an engine of the store in `directory` that has run the given code."""
    started: list[Engine] = []

    def start(code: str = "pass", *, size: int = 4 * MIB, wait: bool = True) -> Engine:
        process = Engine(directory, code, size)
        started.append(process)
        if wait:
            process.until_ready()
        return process

    yield start
    for process in started:
        process.kill()


def in_child(action: Callable[[], None]) -> int:
    """Fork, run, and give the child's exit code; an exception in it is 1 and its traceback."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # from 3.12 on: other threads run
        child = os.fork()
    if child == 0:
        code = 1
        try:
            action()
            code = 0
        except BaseException:  # noqa: BLE001 - the child reports and never returns to pytest
            sys.excepthook(*sys.exc_info())
        finally:
            os._exit(code)
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    raise AssertionError("the forked child did not end")


@pytest.fixture
def engine_in() -> Iterator[Callable[[Path], None]]:
    """Starts an engine of the store in a given directory."""
    started: list[Engine] = []

    def start(directory: Path) -> None:
        started.append(Engine(directory, "pass", MIB))
        started[-1].until_ready()

    yield start
    for process in started:
        process.kill()
