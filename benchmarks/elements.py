"""A large session of which each request changes one small element: what a write costs.

First the bytes and microseconds of a write between two nodes in this process, beside rewriting the
whole session; then requests per second under wrk, beside starsessions, which rewrites it in Redis.
"""

from __future__ import annotations

import asyncio
import gc
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import ExitStack, closing
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import application, figures, load
from benchmarks.processes import Processes, pin
from sessionha.identity import ViewID
from sessionha.peer.base import Sender
from sessionha.peer.messages import Batch, Create, Message, SessionChange, decode, encode
from sessionha.session.session import Known, Session
from sessionha.state.clock import NodeClock
from sessionha.state.manager import StateManager
from sessionha.state.node import Node, Options
from sessionha.store.base import Reader
from sessionha.store.lmdb import LMDBStore
from sessionha.topology.lone import LoneMembership
from sessionha.values.codec import encode as encode_value
from sessionha.view import Member, View

GOAL = 5.0
"""Times the requests per second of starsessions with Redis, at the same session and write."""

WRITES = 500
"""In one run of one way: 50 ms to 1 s, long beside a scheduler's slice."""

VARIANTS = (application.REDIS, application.SESSIONHA)

GROUP, KEY = b"\x05" * 12, b"\x01" * 16
LIFETIMES = Create(idle_timeout=1_800_000, lifetime=0)
MAP_BYTES = 64 << 20


class Cost(NamedTuple):
    """What one write costs, on both nodes together."""

    bytes: float
    """Of all messages, acknowledgements included, without their frames."""
    cpu_us: float


class Costs(NamedTuple):
    """A round's costs: of the change alone, and of the whole session."""

    write: Cost
    whole: Cost


# --- two nodes in this process -------------------------------------------------------------------


class _Together(LoneMembership):
    """The membership of a node in a view that does not change."""

    def __init__(self, store: LMDBStore, me: Member, view: View) -> None:
        super().__init__(store, me)
        self._view = view

    def view(self) -> View:
        return self._view

    def view_in(self, reader: Reader) -> View:  # noqa: ARG002 — it is in no store
        return self._view

    def is_member(self) -> bool:
        return True


class _Wire:
    """Peers that hand each message on as the bytes that a stream would carry."""

    def __init__(self, sender: Sender) -> None:
        self.sender = sender
        self.others: dict[str, StateManager] = {}
        self.bytes = 0

    async def call(self, node: str, message: Message, timeout: float) -> Message:  # noqa: ARG002
        data = encode(message)
        reply = self.others[node].handle(self.sender, decode(data))
        answer = await reply if isinstance(reply, Awaitable) else reply
        assert answer is not None, "what is called answers"
        back = encode(answer)
        self.bytes += len(data) + len(back)
        return decode(back)

    def cast(self, node: str, message: Message) -> None:
        data = encode(message)
        self.bytes += len(data)
        self.others[node].handle(self.sender, decode(data))

    def know(self, directory: object) -> None:
        """They know each other."""


class _Pair:
    """A primary and its backup, each with a store as in production, and one session."""

    def __init__(self, directory: Path, stack: ExitStack) -> None:
        stores = {}
        for name in ("n1", "n2"):
            place = directory / name
            place.mkdir(mode=0o700)
            stores[name] = stack.enter_context(closing(LMDBStore(place, size=MAP_BYTES).open()))
        first = ViewID(1, "n1")
        members = {
            name: Member(name, store.incarnation, first, "") for name, store in stores.items()
        }
        view = View(first, tuple(members.values()))
        wires = {name: _Wire(Sender(name, store.incarnation)) for name, store in stores.items()}
        managers = {}
        for name, store in stores.items():
            clock = NodeClock(store)
            clock.begin()
            membership = _Together(store, members[name], view)
            node = Node(name, store, membership, clock, Options(), wires[name])
            managers[name] = StateManager(node)
        for wire in wires.values():
            wire.others = managers
        self.state = managers["n1"]
        self.wire = wires["n1"]

    async def begin(self) -> None:
        """The session as it is before the writes."""
        session = Session()
        session.update(application.elements())
        prepared = session.prepare(lambda: ("id", KEY), LIFETIMES)
        receipt = await self.state.commit(Batch(GROUP, prepared.changes), fresh=True)
        assert receipt.copies == 1, "the backup has it"

    async def write(self) -> None:
        """A request that changes one element, as sessionha commits it."""
        session, read = self._open()
        session.as_dict()["counter"] += 1
        prepared = session.prepare(lambda: ("id", KEY), LIFETIMES)
        receipt = await self.state.commit(Batch(GROUP, prepared.changes, read), fresh=False)
        session.settle(prepared, receipt)

    async def rewrite(self) -> None:
        """The same request where the whole session is encoded, stored and sent."""
        session, read = self._open()
        values = session.as_dict()
        values["counter"] += 1
        puts = tuple((name, "value", encode_value(value, name)) for name, value in values.items())
        change = SessionChange(KEY, puts=puts)
        await self.state.commit(Batch(GROUP, (change,), read), fresh=False)

    def counter(self) -> int:
        """The counter as it is committed."""
        return int(self._open()[0]["counter"])

    def _open(self) -> tuple[Session, Any]:
        loaded = self.state.load(GROUP, KEY)
        assert loaded is not None
        return Session(Known("id", KEY, loaded.elements)), loaded.held.position


async def _cost(pair: _Pair, write: Callable[[], Awaitable[None]]) -> Cost:
    for _ in range(20):
        await write()
    gc.collect()
    before, sent, cpu = pair.counter(), pair.wire.bytes, time.process_time()
    for _ in range(WRITES):
        await write()
    cpu, sent = time.process_time() - cpu, pair.wire.bytes - sent
    assert pair.counter() - before == WRITES, "no write was lost"
    return Cost(sent / WRITES, cpu / WRITES * 1e6)


async def _rounds(pair: _Pair, rounds: int) -> list[Costs]:
    await pair.begin()
    return [
        Costs(await _cost(pair, pair.write), await _cost(pair, pair.rewrite)) for _ in range(rounds)
    ]


def costs(directory: Path, rounds: int) -> list[Costs]:
    """What each round found; both nodes run in this process, their stores in `directory`."""
    with ExitStack() as stack:
        return asyncio.run(_rounds(_Pair(directory, stack), rounds))


# --- what is told --------------------------------------------------------------------------------


class Found(NamedTuple):
    """What was measured; `run` is None where wrk or Redis is missing."""

    costs: list[Costs]
    run: load.Run | None


def report(found: Found) -> dict[str, Any]:
    """The JSON. Bytes are the same in every round; of CPU times the least is the truest."""
    small = min(cost.write.cpu_us for cost in found.costs)
    whole = min(cost.whole.cpu_us for cost in found.costs)
    elements: dict[str, Any] = {
        "bytes_per_write": round(found.costs[-1].write.bytes),
        "bytes_whole": round(found.costs[-1].whole.bytes),
        "cpu_us_per_write": figures.significant(small),
        "cpu_us_whole": figures.significant(whole),
    }
    if found.run is not None:
        comparison = load.report(found.run)
        elements |= {
            "requests_per_s": {
                variant: rates["write"]["median"] for variant, rates in comparison["rates"].items()
            },
            "ratio": _ratio(found.run),
            "goal": GOAL,
            "server_cpu_us": {
                variant: cpu["write"]["median"]
                for variant, cpu in comparison["server_cpu_us"].items()
            },
            "rounds": comparison["rounds"],
            "others_cores": comparison["others_cores"],
            "errors": comparison["errors"],
        }
    return {
        "elements": elements,
        "state_bytes": application.state_bytes(application.ELEMENTS),
        "machine": figures.machine(),
    }


def _ratio(run: load.Run) -> float:
    """sessionha's rate of writes over that of starsessions: made round by round, the median."""
    pairs = zip(
        run.samples[application.SESSIONHA, "write"],
        run.samples[application.REDIS, "write"],
        strict=True,
    )
    return figures.significant(figures.spread(mine.rate / its.rate for mine, its in pairs).median)


def text(found: Found) -> str:
    """The tables, for people."""
    told = report(found)["elements"]
    rows = [
        ["one element", str(told["bytes_per_write"]), figures.short(told["cpu_us_per_write"])],
        ["the whole session", str(told["bytes_whole"]), figures.short(told["cpu_us_whole"])],
    ]
    parts = [
        f"{application.state_bytes(application.ELEMENTS)} bytes in 100 elements, one changed",
        figures.table(["a write of", "bytes sent", "CPU us, both nodes"], rows),
    ]
    if found.run is None:
        return "\n\n".join([*parts, f"{_missing()}: no requests per second"])
    verdict = "met" if told["ratio"] >= GOAL else "MISSED"
    goal = f"sessionha: {told['ratio']:.2f} times {application.REDIS} (goal {GOAL}): {verdict}"
    return "\n".join(
        ["\n\n".join([*parts, load.tables(found.run), goal]), *load.remarks(found.run)]
    )


def _missing() -> str:
    return " and ".join(load.missing_programs()) + " missing"


def main(plan: load.Plan, *, quiet: bool, save: bool) -> int:
    """Measure, print, and say by the exit code whether the figures are valid.

    `plan`: how much; what is compared is fixed.
    """
    plan = replace(plan, variants=VARIANTS, state=application.ELEMENTS)
    with Processes() as processes:
        pin(0, processes.cores.server)
        alone = costs(processes.memory, plan.rounds)
    found = Found(alone, None if load.missing_programs() else load.measure(plan))
    if found.run is None:
        print(f"{_missing()}: install it for the comparison", file=sys.stderr)
    figures.publish("elements", report(found), text(found), quiet=quiet, save=save)
    return 1 if found.run is not None and found.run.errors else 0
