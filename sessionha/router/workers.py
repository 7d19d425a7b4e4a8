"""Several processes behind one listening socket: started, replaced when they die, told to stop."""

from __future__ import annotations

import logging
import os
import signal
import sys
import time
from collections.abc import Callable
from typing import Final

logger = logging.getLogger("sessionha.router")

NOT_STARTED: Final = 3
"""Exit code of a worker that could not start: another one could not either."""

YOUNG: Final = 1.0
"""Seconds: a worker that lived shorter is replaced after as long a pause only."""

PATIENCE: Final = 5.0
"""Seconds that a worker has beyond its own deadline to end, before it is killed."""

_HEARD: Final = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD)


class Workers:
    """Forks workers and looks after them; nothing may run in this process besides.

    Args:
        count: How many.
        work: What each does with its number, from 0; its process ends when this returns.
        deadline: Seconds that a worker may take to stop.
    """

    def __init__(self, count: int, work: Callable[[int], None], deadline: float) -> None:
        self._work = work
        self._deadline = deadline
        self._due: dict[int, float] = dict.fromkeys(range(count), 0.0)
        self._alive: dict[int, tuple[int, float]] = {}
        self._kill_at: float | None = None
        self._code = 0

    def run(self) -> int:
        """Work until SIGTERM or SIGINT; SIGHUP is passed on. The exit code."""
        before = signal.pthread_sigmask(signal.SIG_BLOCK, _HEARD)
        try:
            while self._kill_at is None or self._alive:
                self._start(before)
                heard = signal.sigtimedwait(_HEARD, 0.5)
                if heard is not None and heard.si_signo != signal.SIGCHLD:
                    self._pass_on(signal.Signals(heard.si_signo))
                self._bury()
                if self._kill_at is not None and time.monotonic() >= self._kill_at:
                    self._tell(signal.SIGKILL)
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        return self._code

    def _start(self, mask: set[signal.Signals | int]) -> None:
        if self._kill_at is not None:
            return
        now = time.monotonic()
        for number in [number for number, at in self._due.items() if at <= now]:
            del self._due[number]
            pid = os.fork()
            if pid == 0:
                self._become(number, mask)
            self._alive[pid] = (number, now)

    def _become(self, number: int, mask: set[signal.Signals | int]) -> None:
        """The child. Whatever happens, it never returns into the parent's code."""
        code = 1
        try:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            self._work(number)
            code = 0
        except SystemExit as end:
            code = end.code if isinstance(end.code, int) else 1
        except KeyboardInterrupt:
            code = 0
        except Exception:
            logger.exception("a worker of the router failed")
        finally:
            logging.shutdown()
            sys.stdout.flush()
            os._exit(code)

    def _pass_on(self, heard: signal.Signals) -> None:
        self._tell(heard)
        if heard != signal.SIGHUP and self._kill_at is None:
            self._kill_at = time.monotonic() + self._deadline + PATIENCE

    def _tell(self, what: signal.Signals) -> None:
        for pid in self._alive:
            os.kill(pid, what)

    def _bury(self) -> None:
        for pid in tuple(self._alive):
            found, status = os.waitpid(pid, os.WNOHANG)
            if not found:
                continue
            number, born = self._alive.pop(pid)
            code = os.waitstatus_to_exitcode(status)
            if self._kill_at is not None:
                continue
            if code == NOT_STARTED:
                self._code = code
                self._pass_on(signal.SIGTERM)
                continue
            now = time.monotonic()
            self._due[number] = now + (YOUNG if now - born < YOUNG else 0.0)
            logger.warning("worker %d of the router ended (%d) and is replaced", number, code)
