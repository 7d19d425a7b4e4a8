"""Several processes of the router, as `sessionha router --workers` starts them."""

from __future__ import annotations

import os
import re
import signal
import socket
import ssl
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from sessionha.keys import new_secret
from sessionha.router.workers import NOT_STARTED
from tests.router.conftest import closed_port

ROOT = Path(__file__).parents[2]

PATIENCE = 30.0
"""Seconds for a process to start or end on a busy machine."""

TRIES = 3
"""Times to start: other tests may take a port that was free a moment ago."""


def until(what: str, happened: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not happened():
        assert time.monotonic() < deadline, what
        time.sleep(0.02)


def certificate(place: Path, name: str) -> bytes:
    """Make the two files anew; the certificate."""
    made = subprocess.run(
        [
            *(
                "openssl",
                "req",
                "-x509",
                "-newkey",
                "ec",
                "-pkeyopt",
                "ec_paramgen_curve:prime256v1",
            ),
            *("-nodes", "-days", "1", "-subj", f"/CN={name}"),
            *("-keyout", str(place / "key.pem"), "-out", str(place / "certificate.pem")),
        ],
        stderr=subprocess.PIPE,
        check=False,
    )
    assert made.returncode == 0, made.stderr.decode()
    return ssl.PEM_cert_to_DER_cert((place / "certificate.pem").read_text())


def neighbours() -> int:
    """A port that nobody listens at, nor at the one above."""
    while True:
        port = closed_port()
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port + 1)) != 0:
                return port


class Running:
    """`sessionha router --workers 2` with TLS, metrics and an access log, before no servers."""

    def __init__(self, place: Path) -> None:
        self.place = place
        self.port, self.metrics = closed_port(), neighbours()
        self.certificate = certificate(place, "first")
        self._said = (place / "said").open("wb")
        command = [
            *(sys.executable, "-m", "sessionha", "router", "--workers", "2"),
            *("--nodes", f"n1=http://127.0.0.1:{closed_port()}"),
            *("--listen", f"127.0.0.1:{self.port}", "--metrics", f"127.0.0.1:{self.metrics}"),
            *("--health-path", "/health", "--drain-delay", "2s"),
            *("--access-log", str(place / "access.log")),
            *("--tls-certificate", str(place / "certificate.pem")),
            *("--tls-key", str(place / "key.pem")),
        ]
        environment = {**os.environ, "SESSIONHA_SECRET": new_secret()}
        self.process = subprocess.Popen(command, stderr=self._said, env=environment, cwd=ROOT)

    def said(self) -> str:
        return (self.place / "said").read_text()

    def health(self) -> int:
        """The status of the health page; 0: nobody listens."""
        anybody = ssl._create_unverified_context()
        try:
            url = f"https://127.0.0.1:{self.port}/health"
            with urllib.request.urlopen(url, timeout=5, context=anybody) as answer:
                return int(answer.status)
        except urllib.error.HTTPError as error:
            with error:
                return error.code
        except OSError:
            return 0

    def counted(self, worker: int) -> bool:
        """Whether this worker tells its metrics."""
        try:
            url = f"http://127.0.0.1:{self.metrics + worker}/metrics"
            with urllib.request.urlopen(url, timeout=5) as answer:
                return b"sessionha_router_view" in answer.read()
        except OSError:
            return False

    def presented(self) -> bytes:
        return ssl.PEM_cert_to_DER_cert(
            ssl.get_server_certificate(("127.0.0.1", self.port), timeout=5)
        )

    def workers(self) -> set[int]:
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        return {int(pid) for pid in children.read_text().split()}

    @property
    def runs(self) -> bool:
        return self.process.poll() is None

    def began(self) -> bool:
        """Whether it serves, once it does or has ended."""
        until("it serves, or has ended", lambda: self.counted(1) or not self.runs)
        return self.runs

    def end(self) -> None:
        if self.runs:
            self.process.kill()
        self.process.wait()
        self._said.close()


@pytest.fixture
def running(tmp_path: Path) -> Iterator[Running]:
    found = Running(tmp_path)
    for _ in range(TRIES):
        if found.began():
            break
        found.end()
        found = Running(tmp_path)
    try:
        yield found
    finally:
        found.end()


@pytest.mark.processes
@pytest.mark.needs("openssl")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_share_a_port_are_replaced_reload_and_drain(running: Running) -> None:
    until("it serves", lambda: running.health() == 503)
    until("both workers tell metrics", lambda: running.counted(0) and running.counted(1))
    first = running.workers()
    assert len(first) == 2

    victim = min(first)
    os.kill(victim, signal.SIGKILL)
    until("it is replaced", lambda: len(running.workers() - {victim}) == 2)
    until("both serve again", lambda: running.counted(0) and running.counted(1))
    assert len(running.workers() & first) == 1, "the other one was left alone"

    renewed = certificate(running.place, "second")
    running.process.send_signal(signal.SIGHUP)
    until("both read again", lambda: running.said().count("read its settings again") == 2)
    assert {running.presented() for _ in range(8)} == {renewed}
    assert running.presented() != running.certificate

    workers = running.workers()
    running.process.terminate()
    until("it says that it drains", lambda: running.health() == 404)
    assert running.process.wait(PATIENCE) == 0
    until("nobody is left", lambda: not any(Path(f"/proc/{pid}").exists() for pid in workers))
    assert "Traceback" not in running.said()
    assert not re.search("Task was destroyed|never awaited", running.said())


@pytest.mark.processes
@pytest.mark.needs("openssl")
@pytest.mark.skipif(sys.platform != "linux", reason="looks into /proc")
def test_workers_end_with_the_process_that_started_them(running: Running) -> None:
    until("it serves", lambda: running.counted(0) and running.counted(1))
    workers = running.workers()
    running.process.kill()
    until("nobody is left", lambda: running.health() == 0)
    until("nobody is left", lambda: not any(map(_lives, workers)))


def _lives(pid: int) -> bool:
    """A child of nobody may stay as a zombie where process 1 does not look after them."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return stat.rpartition(")")[2].split()[0] != "Z"


CANNOT = """
import signal, sys
from sessionha.router.workers import NOT_STARTED, Workers

def work(number):
    if number == 1:
        raise SystemExit(NOT_STARTED)
    signal.pause()

sys.exit(Workers(2, work, 1.0).run())
"""


@pytest.mark.processes
@pytest.mark.skipif(sys.platform == "win32", reason="forks")
def test_a_worker_that_cannot_start_ends_them_all() -> None:
    ended = subprocess.run([sys.executable, "-c", CANNOT], timeout=PATIENCE, cwd=ROOT, check=False)
    assert ended.returncode == NOT_STARTED
