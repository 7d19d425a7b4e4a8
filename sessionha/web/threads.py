"""Lets request threads use an engine: one at a time, and its event loop where it has peers.

An engine is made for one event loop, where nothing happens between two awaits. Threads get the same
from one lock, which the loop has whenever it runs something, and gives away while it waits. So what
needs no peer is done in the request's own thread, as a callback of the loop would do it, and only
what waits for a peer goes to the loop's thread.

Under gevent, which replaces threads, locks and selectors of the process with its own, the loop is a
greenlet beside those of the requests, and everything that waits lets others go on.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import importlib
import logging
import os
import selectors
import threading
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError, Future
from typing import Any, Final, TypeVar

from sessionha.errors import InvalidSettings, SessionUnavailable
from sessionha.web.base import Engine
from sessionha.web.signals import retire_first

log = logging.getLogger("sessionha.web")

T = TypeVar("T")

SLACK: Final = 1.0
"""Seconds beyond the engine's own deadlines: only an engine that has stopped takes longer."""

START: Final = 10.0
"""Seconds beyond the discovery time that a start may take."""

SKIPPED: Final = 8
"""Turns of a loop that has something to do already in which it does not look for more: one change
takes about six. To look it would give the lock and the interpreter away each time."""

STOP: Final = 29.0
"""Seconds that leaving the node to another worker, or a goodbye, may take: less than servers
wait for a worker that ends (30)."""


class EngineSilent(SessionUnavailable):
    """The engine itself does not answer: whoever meets this waits for it no more."""


def drive(work: Coroutine[Any, Any, T]) -> T:
    """Run a coroutine that never suspends, without an event loop."""
    try:
        work.send(None)
    except StopIteration as done:
        result: T = done.value
        return result
    work.close()
    raise AssertionError("without peers nothing is waited for")


class Host:
    """The life of one engine in one process whose requests have threads. Callable from any thread.

    `host_for` finds it. Nothing runs before `start`.
    """

    def __init__(self, engine: Engine) -> None:
        settings = engine.settings
        self.engine = engine
        self.serial = settings.concurrency == "serialize"
        self.looped = settings.has_peers or self.serial or bool(settings.admin)
        """Whether the engine needs an event loop. Turns at a session are waited for on one, and
        `admin` is served by one; everything else does without where there are no peers."""
        self.patience = settings.acquire_timeout + settings.commit_timeout + SLACK
        """Seconds that a request thread waits for the engine at most."""
        self._lock = _FairLock()
        self._starting = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._thread: threading.Thread | None = None
        self._ending = False

    @property
    def running(self) -> bool:
        """Whether it was started in this very process, and its loop lives."""
        if not self.engine.running:
            return False
        return not self.looped or (self._thread is not None and self._thread.is_alive())

    def start(self) -> bool:
        """Start the engine, with its own thread where it needs a loop. False: it runs already.

        Raises:
            StoreError, InvalidSettings: what is wrong and the remedy.
            EngineSilent: its thread has ended, or another one starts it too slowly.
        """
        patience = self.engine.settings.discovery_time + START
        if not self._starting.acquire(timeout=patience):
            raise EngineSilent("this server's engine has not started yet")
        try:
            if self.running:
                return False
            if not self.looped:
                self.call(lambda: drive(self.engine.start()))
            elif self._thread is not None:
                raise EngineSilent("this server's engine has ended: restart the process")
            else:
                self._start_thread(patience)
                self.retire_first()
        finally:
            self._starting.release()
        return True

    def _start_thread(self, patience: float) -> None:
        _check_threads()
        self._ending = False
        self._loop = loop = asyncio.SelectorEventLoop(_yielding(self._lock))
        self._thread = threading.Thread(
            target=self._run, args=(loop,), name="sessionha engine", daemon=True
        )
        self._thread.start()
        atexit.register(self._stop_in, os.getpid())
        try:
            self._on_loop(self.engine.start(), patience)
        except BaseException:
            self._end_thread()
            raise

    def _run(self, loop: asyncio.AbstractEventLoop) -> None:
        self._lock.acquire()
        try:
            loop.run_forever()
        finally:
            self._lock.release()
            loop.close()
            if not self._ending:
                log.error("this server's engine has ended: restart the process (%d)", os.getpid())

    def call(self, step: Callable[[], T]) -> T:
        """Do what waits for nobody, while nothing else happens in the engine.

        Raises:
            EngineSilent: the engine has stopped, or something in it does not end.
        """
        if self.serial:  # the end of a turn wakes up others, on their loop
            return self._on_loop(_called(step), self.patience)
        self._enter()
        try:
            return step()
        finally:
            self._lock.release()

    def wait(self, work: Coroutine[Any, Any, T]) -> T:
        """Run a coroutine of the engine, `await session.commit()` for one, to its end.

        Raises:
            EngineSilent: it did not end in time.
        """
        if self.looped:
            return self._on_loop(work, self.patience)
        return self.call(lambda: drive(work))

    async def awaited(self, work: Coroutine[Any, Any, T]) -> T:
        """The same for a coroutine of another event loop, which goes on meanwhile.

        Raises:
            EngineSilent: it did not end in time.
        """
        if not self.looped:
            return self.call(lambda: drive(work))
        waiting = self._submitted(work)
        try:
            return await asyncio.wait_for(asyncio.wrap_future(waiting), self.patience)
        except TimeoutError:
            if waiting.done() and not waiting.cancelled():
                raise
            raise EngineSilent(
                f"this server's engine did not answer within {self.patience:g} s"
            ) from None

    def post(self, step: Callable[[], object]) -> None:
        """Let something be done when the engine answers again, if it ever does."""
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # it is closed
                self._loop.call_soon_threadsafe(step)

    def _on_loop(self, work: Coroutine[Any, Any, T], patience: float) -> T:
        if threading.current_thread() is self._thread:
            work.close()
            raise RuntimeError("the engine's own thread cannot wait for itself: use await")
        waiting = self._submitted(work)
        try:
            return waiting.result(patience)
        except CancelledError as ended:
            raise EngineSilent("this server's engine ends") from ended
        except TimeoutError:
            if waiting.done():
                raise
            waiting.cancel()
            raise EngineSilent(
                f"this server's engine did not answer within {patience:g} s"
            ) from None

    def _submitted(self, work: Coroutine[Any, Any, T]) -> Future[T]:
        """The work, on the engine's loop. Raises EngineSilent: there is none any more."""
        loop, thread = self._loop, self._thread
        if loop is None or thread is None or not thread.is_alive():
            work.close()
            raise EngineSilent("this server's engine has ended: restart the process")
        try:
            return asyncio.run_coroutine_threadsafe(work, loop)
        except RuntimeError as closed:  # a moment ago
            work.close()
            raise EngineSilent("this server's engine has ended") from closed

    def _enter(self) -> None:
        if not self._lock.acquire(self.patience / 2):  # of each half of it
            raise EngineSilent(
                f"this server's engine was busy for {self.patience:g} s: is another process of"
                " this node stopped while it writes?"
            )

    def retire_first(self) -> None:
        """Let the engine hand over as soon as the server is told to end; only the main thread can
        see to that, for an engine that another one has started."""
        if self.running and self.engine.settings.has_peers and self._loop is not None:
            retire_first(self.engine, self._loop)

    def stop(self) -> None:
        """Say goodbye, close, and join the thread; bounded. Does nothing when it does not run."""
        if not self.engine.running:
            return
        if not self.looped:
            self.call(lambda: drive(self.engine.stop()))
            return
        if self._thread is not None and self._thread.is_alive():
            try:
                self._on_loop(_ended(self.engine), STOP)
            except EngineSilent as late:
                log.warning("the engine did not say goodbye: %s", late)
        self._end_thread()

    def _stop_in(self, pid: int) -> None:
        """At the exit of the process that started it; forked children inherit exit handlers."""
        if pid == os.getpid():
            self.stop()

    def _end_thread(self) -> None:
        loop, thread = self._loop, self._thread
        self._ending = True
        if loop is not None and thread is not None and thread.is_alive():
            loop.call_soon_threadsafe(loop.stop)
            thread.join(STOP)
        self._loop = self._thread = None  # it may start again


class _FairLock:
    """A lock that whoever waits for it gets before whoever had it last gets it again: a loop that
    is never idle would leave no gap for anybody else."""

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._held = threading.Lock()

    def acquire(self, timeout: float = -1) -> bool:
        """Whether it was had within twice `timeout` seconds; -1: however long it takes."""
        if not self._next.acquire(timeout=timeout):
            return False
        try:
            return self._held.acquire(timeout=timeout)
        finally:
            self._next.release()

    def release(self) -> None:
        self._held.release()


def _yielding(lock: _FairLock) -> selectors.BaseSelector:
    """A selector that gives the lock away while the loop waits for something to happen."""

    class Yielding(selectors.DefaultSelector):  # as it is now: gevent exchanges it
        skipped = 0

        def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
            """Wait. Meanwhile no loop runs in this thread: under gevent it is that of requests,
            which may have loops of their own."""
            if timeout is not None and timeout <= 0 and self.skipped < SKIPPED:
                self.skipped += 1
                return []
            self.skipped = 0
            running = asyncio._get_running_loop()
            asyncio._set_running_loop(None)
            lock.release()
            try:
                return super().select(timeout)
            finally:
                lock.acquire()
                asyncio._set_running_loop(running)

    return Yielding()


async def _called(step: Callable[[], T]) -> T:
    return step()


async def _ended(engine: Engine) -> None:
    """Stop, and leave nothing that still runs on the loop."""
    await engine.stop()
    left = asyncio.all_tasks() - {asyncio.current_task()}
    for task in left:
        task.cancel()
    if left:
        await asyncio.wait(left, timeout=SLACK)


_OFF: Final = frozenset({"false", "off", "no", "0"})
"""What uWSGI takes for no, in any case, where its files give an option a value."""


def _uwsgi_value(given: Any) -> str:
    """An option as uWSGI tells it: True, bytes, or a list of those, whose last one counts."""
    last = given[-1] if isinstance(given, list) else given
    return (last.decode("latin-1") if isinstance(last, bytes) else str(last)).strip().lower()


def _check_threads() -> None:
    """Raises InvalidSettings where the server does not let threads run."""
    try:
        options = importlib.import_module("uwsgi").opt  # only its own processes have it
    except ModuleNotFoundError:
        return
    count = _uwsgi_value(options.get("threads"))
    if _uwsgi_value(options.get("enable-threads", "no")) in _OFF and not (
        count.isdecimal() and int(count) > 1
    ):
        raise InvalidSettings(
            [
                "uWSGI does not let threads run, and a node with peers, or with `admin`, needs one:"
                " start it with the option `enable-threads` (or more than one of `threads`)"
            ]
        )


_hosts: dict[tuple[int, Engine], Host] = {}


def host_for(engine: Engine) -> Host:
    """The host of this engine in this process.

    A forked child gets another one. The parent's is kept and left alone: its loop, collected as
    garbage in the child, would take the descriptors that both share out of the parent's poll.
    """
    key = os.getpid(), engine
    host = _hosts.get(key)
    return _hosts.setdefault(key, Host(engine)) if host is None else host


def retire_all() -> None:
    """Let every engine that threads of this process use retire before its server ends."""
    pid = os.getpid()
    for (owner, _), host in list(_hosts.items()):
        if owner == pid:
            host.retire_first()


def stop_all() -> None:
    """Stop every engine that threads of this process use."""
    pid = os.getpid()
    for (owner, _), host in list(_hosts.items()):
        if owner == pid:
            host.stop()
