"""Two simpler ways to heal, to measure the product's against: with content copied under the lock.

They are the product with its locks taken elsewhere: a domain is locked, copied and released; or one
lock holds everything until all is copied, as a transfer of state to a new member is often made.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import ExitStack
from typing import Any, Final
from unittest import mock

from starlette.applications import Starlette

from sessionha.state import domains
from sessionha.state.healing import Healer
from tests.live import app

LONGEST: Final = 60_000
"""Milliseconds after which such a lock ends by itself: it outlives what it is to hold."""

WAYS: Final = {
    "walk and tail": "tests.live.app:create_app",
    "lock, copy, release": "benchmarks.locking:with_a_lock_a_domain",
    "one lock for all": "benchmarks.locking:with_one_lock",
}
"""Each with the application whose nodes heal in that way."""


def lock_and_copy() -> ExitStack:
    """Patches: each domain is locked while its content is copied."""
    original = Healer._heal_domain

    async def heal_domain(self: Healer, domain: int, *others: Any) -> Any:
        return await _locked(self, domain, lambda: original(self, domain, *others))

    return _patched(mock.patch.object(Healer, "_heal_domain", heal_domain))


def one_lock() -> ExitStack:
    """Patches: everything is locked while all domains are copied."""
    original = Healer._heal

    async def heal(self: Healer) -> Any:
        return await _locked(self, 0, lambda: original(self))

    every = mock.patch.object(domains, "is_locked", return_value=True)
    return _patched(mock.patch.object(Healer, "_heal", heal), every)


def with_a_lock_a_domain() -> Starlette:
    """The application of the live tests on a node that locks, copies and releases."""
    lock_and_copy()
    return app.create_app()


def with_one_lock() -> Starlette:
    """The same on a node that locks everything."""
    one_lock()
    return app.create_app()


_lock = domains.lock


async def _locked(healer: Healer, domain: int, work: Callable[[], Awaitable[Any]]) -> Any:
    node = healer._node
    with node.store.write() as writer:
        _lock(writer, domain, node.store.slot, node.clock.now())
    try:
        return await work()
    finally:
        with node.store.write() as writer:
            writer.delete(domains.LOCKED)


def _patched(*ways: Any) -> ExitStack:
    """In force until the stack is closed; the locks of the steps are taken by nobody."""
    stack = ExitStack()
    stack.enter_context(mock.patch.object(domains, "LONGEST", LONGEST))
    stack.enter_context(mock.patch.object(domains, "lock"))
    stack.enter_context(mock.patch.object(domains, "unlock"))
    for way in ways:
        stack.enter_context(way)
    return stack
