"""The affinity rule: a verified route, the view and health give the upstreams to try, in order."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from sessionha.balancers.table import Table, Target
from sessionha.router.balance import ANY, Balance, Preference

IDEMPOTENT: Final = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
"""Methods that may run twice (RFC 9110, 9.2.2)."""


def in_order(
    table: Table, servers: Sequence[str], balance: Balance, prefer: Preference = ANY
) -> Iterator[Target]:
    """The targets to try for a request, the best first, each at most once.

    First the servers of the route in its order, then every other ready server (any node serves
    any session) as `balance` chooses. Last what is starting, draining or down, because trying
    is better than giving up. `servers` is empty for a client without a (valid) route.
    """
    seen: set[str] = set()
    for name in servers:
        targets, engine = table.lead(name)
        for target in balance.inside(targets, engine):
            if target.name not in seen and _suits(target, prefer) and balance.serves(target):
                seen.add(target.name)
                yield target  # nearly always the only one that is asked for
    serving = (
        [t for t in targets if t.name not in seen and _suits(t, prefer) and balance.serves(t)]
        for targets in table.nodes
    )
    for target in balance.among([place for place in serving if place], prefer):
        seen.add(target.name)
        yield target
    named = [target for name in servers for target in balance.inside(*table.lead(name))]
    for target in (*named, *table.targets):
        if target.name not in seen and _suits(target, prefer):
            seen.add(target.name)
            yield target


def _suits(target: Target, prefer: Preference) -> bool:
    return not prefer.engine_type or prefer.engine_type in target.types


def may_repeat(*, accepted: bool, idempotent: bool, replayable: bool) -> bool:
    """Whether a failed request may go to another server (R14).

    `accepted`: a byte of it was written to a connection. `replayable`: what was read of its body
    is still at hand.
    """
    return replayable and (idempotent or not accepted)
