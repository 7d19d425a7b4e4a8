"""Engines of one node that come and go: the last one waits for whoever is about to begin."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from sessionha.siblings import (
    BY_ITSELF,
    LIMIT,
    PATIENCE,
    TOLD,
    Serving,
    Vigil,
    Workers,
    told_to_end,
)
from sessionha.store import MemoryStore
from sessionha.store.memory import Memory

NONE = Workers(0, 0)


def engines(count: int) -> list[Serving]:
    memory = Memory()
    return [Serving(MemoryStore(memory).open(), os.getpid()) for _ in range(count)]


def test_of_engines_that_leave_at_once_exactly_one_is_the_last() -> None:
    """Each still has its slot; whoever finds only leaving ones has to say goodbye."""
    serving = engines(3)
    for each in serving:
        each.begin()
    assert [each.leave() for each in serving] == [True, True, False]


def test_an_engine_that_starts_is_no_sibling_before_it_answers_peers() -> None:
    """Its slot is locked long before it listens."""
    old, new = engines(2)
    old.begin()
    assert not old.leave()
    new.begin()
    assert old.leave()


def test_who_was_killed_does_not_serve_although_its_slot_lives_again() -> None:
    """A new engine has taken the slot and has yet to begin."""
    memory = Memory()
    killed, old = (MemoryStore(memory).open() for _ in range(2))
    dead = subprocess.Popen(["true"])
    Serving(old, os.getpid()).begin()
    Serving(killed, dead.pid).begin()
    os.waitid(os.P_PID, dead.pid, os.WEXITED | os.WNOWAIT)
    assert not Serving(old, os.getpid()).leave()  # though its parent has yet to notice
    dead.wait()
    assert not Serving(old, os.getpid()).leave()


def test_only_a_node_that_had_siblings_waits_for_one() -> None:
    one, two = engines(2)
    one.begin()
    assert not one.had_siblings
    two.begin()
    assert two.leave()
    assert one.had_siblings


def waited(*looks: tuple[float, Workers], told: bool = True) -> float:
    """When the vigil ends, after looks at these instants; the last one is repeated for ever."""
    vigil = Vigil(0.0, told=told)
    ends = [at for at, _ in looks[1:]] + [PATIENCE * 3]
    for (start, workers), end in zip(looks, ends, strict=True):
        now = start
        while now < end:
            if not vigil.goes_on(now, workers):
                return now
            now += 0.01
    raise AssertionError("it does not end")


def test_the_last_engine_waits_for_workers_that_live_and_not_for_ever() -> None:
    assert waited((0, Workers(2, 0))) == pytest.approx(PATIENCE, abs=0.02)
    assert waited((0, Workers(1, 1)), (3, NONE)) == pytest.approx(3.1, abs=0.02)
    crashing = [(at, Workers(at % 10 < 9, 0)) for at in range(40)]
    assert waited(*crashing, told=False) == pytest.approx(LIMIT, abs=0.02)
    late = (0, Workers(0, 1)), (11, Workers(1, 0))
    assert waited(*late, told=False) == pytest.approx(11 + PATIENCE, abs=0.02)


def test_the_last_engine_goes_soon_where_the_server_starts_no_others() -> None:
    assert waited((0, NONE)) == pytest.approx(0.1, abs=0.02)
    assert waited((0, Workers(0, 3))) == pytest.approx(TOLD.ended, abs=0.02)


def test_workers_that_ended_are_replaced_unless_this_one_was_told_to_end() -> None:
    """uvicorn may take seconds to notice; between the end and the start there is nothing."""
    assert waited((0, Workers(0, 3)), told=False) == pytest.approx(BY_ITSELF.ended, abs=0.02)
    looks = (0, Workers(0, 3)), (5, NONE), (6, Workers(1, 0)), (7, NONE)
    assert waited(*looks, told=False) == pytest.approx(7 + BY_ITSELF.none, abs=0.02)


class _Server:
    should_exit = False

    def handle(self, number: int, frame: object) -> None:
        """As uvicorn's server does."""
        self.should_exit = True


def test_a_server_that_ends_by_itself_was_not_told_to(monkeypatch: pytest.MonkeyPatch) -> None:
    server = _Server()
    assert told_to_end() is None, "nobody knows"
    monkeypatch.setattr("signal.getsignal", lambda number: server.handle)
    assert told_to_end() is False
    server.handle(15, None)
    assert told_to_end()


FORKS = """
import os, signal, sys
from sessionha.siblings import Server, Workers

def child(work):
    pid = os.fork()
    if not pid:
        work()
        os._exit(0)
    return pid

def look(expected):
    def work():
        os._exit(0 if Server().others() == expected else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child(work), 0)[1]) == 0, expected

look(Workers(0, 0))
other = child(signal.pause)
stranger = child(lambda: os.execv("/bin/sleep", ["sleep", "60"]))
while b"sleep" not in open(f"/proc/{stranger}/cmdline", "rb").read()[:5]:
    os.sched_yield()
try:
    look(Workers(1, 0))
    os.kill(other, signal.SIGKILL)
    os.waitid(os.P_PID, other, os.WEXITED | os.WNOWAIT)
    look(Workers(0, 1))
    os.waitpid(other, 0)
    look(Workers(0, 0))
finally:
    os.kill(stranger, signal.SIGKILL)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the process table of Linux")
def test_workers_of_one_server_are_known_by_the_process_table() -> None:
    """Those that live, those that ended unnoticed, and nobody who runs something else."""
    command = [sys.executable, "-c", FORKS]
    done = subprocess.run(command, check=False, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
