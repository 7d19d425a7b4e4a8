"""SIGTERM, before the server hears of it: while it still serves, the node hands its sessions over.

The server's own handler is called afterwards, as if the signal had come then. Where no handler of
Python's is to be found the signal is left alone, and the node drains when the server has stopped.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import threading
from collections.abc import Callable
from typing import Any, Final

from sessionha.web.base import Engine

log = logging.getLogger("sessionha.web")

Handler = Callable[[int, Any], object]

_LOOPS: Final = ("asyncio", "uvloop")
"""Packages whose handlers only wake a loop, which has the real one to itself."""


class Chained:
    """The handler of one process in front of its server's."""

    def __init__(self, server: Handler) -> None:
        self._server = server
        self.pid = os.getpid()
        self._engines: dict[Engine, asyncio.AbstractEventLoop] = {}
        self._waiting = 0
        self._done = False

    @property
    def should_exit(self) -> object:
        """What the server behind it says of itself: whether it was told to end."""
        return getattr(getattr(self._server, "__self__", None), "should_exit", None)

    def before(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        """Let the engine, which lives on this loop, retire before the server is told."""
        self._engines[engine] = loop
        engine.will_be_told()

    def told(self, number: int, frame: Any) -> None:
        """The signal came. A second one, as service managers send to every process of a group,
        changes nothing."""
        living = {
            engine: loop
            for engine, loop in self._engines.items()
            if engine.running and loop.is_running()
        }
        if self._done or os.getpid() != self.pid or not (living or self._waiting):
            self._server(number, frame)
        elif not self._waiting:
            self._waiting = len(living)
            for engine, loop in living.items():
                loop.call_soon_threadsafe(self._retire, engine, loop)

    def _retire(self, engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
        task = loop.create_task(engine.retire(), name="sessionha told")
        task.add_done_callback(self._retired)

    def _retired(self, task: asyncio.Task[None]) -> None:
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("draining failed; the server is told to end", exc_info=error)
        self._waiting -= 1
        if not self._waiting:
            self._done = True
            os.kill(self.pid, signal.SIGTERM)  # the server's handler belongs to the main thread


_of_a_loop: list[Chained] = []
"""Where a loop has the server's handler, the one in front of it."""


def retire_first(engine: Engine, loop: asyncio.AbstractEventLoop) -> None:
    """Let this engine, which has peers and lives on this loop, retire when the server is told to
    end. Called with every start; does nothing where the server has no handler that could be called
    afterwards, and only the main thread can set one.
    """
    if (chained := _in_front()) is not None:
        chained.before(engine, loop)


def chain_in_loop(loop: asyncio.AbstractEventLoop, server: Callable[[], object]) -> None:
    """Take the place of a handler that the server gave to its loop, and that is `server`."""
    chained = Chained(lambda _number, _frame: server())
    _of_a_loop[:] = [chained]
    loop.add_signal_handler(signal.SIGTERM, chained.told, signal.SIGTERM, None)


def _in_front() -> Chained | None:
    """The handler in front of the server's; None: there is none that could be called."""
    found = signal.getsignal(signal.SIGTERM)
    if isinstance(owner := getattr(found, "__self__", None), Chained):
        return owner
    if (getattr(found, "__module__", None) or "").partition(".")[0] in _LOOPS:
        return next((each for each in _of_a_loop if each.pid == os.getpid()), None)
    if threading.current_thread() is not threading.main_thread() or not callable(found):
        return None
    chained = Chained(found)
    signal.signal(signal.SIGTERM, chained.told)
    signal.siginterrupt(signal.SIGTERM, False)
    return chained
