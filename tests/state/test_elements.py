"""Elements on their way from a request to the copies: what travels, is seen, and is spoilt."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from sessionha.errors import ElementNotReadable
from sessionha.peer.messages import Batch, Push, SessionChange, Touch, Wire, encode
from sessionha.state.copies import Limits
from sessionha.state.node import Options
from sessionha.state.records import (
    GROUPS,
    read_element,
    read_session,
    session_row_key,
    write_record,
)
from sessionha.values.codec import decode
from sessionha.web.asgi import Receive, Scope, Send
from tests.session.fakes import FakeEngine
from tests.simulation.scenes import GROUP, KEY, Scene, simulated
from tests.state.requests import begin, copies, listen, request
from tests.web.browser import Browser, middleware, reply

LARGE = {f"element-{number:02}": f"{number:02}" * 5_000 for number in range(100)}
"""A hundred elements of 10 KB."""


SESSION_ROW = len(session_row_key(GROUP, KEY))


def sent(heard: list[tuple[str, Any]]) -> int:
    """Bytes of all messages, answers included."""
    return sum(len(encode(message)) for _, message in heard)


def content(scene: Scene, node: str) -> list[tuple[object, ...]]:
    return scene.world.hosts[node].content(GROUP)


class Served(FakeEngine):
    """The engine of one simulated node, as the middleware wants it."""

    def __init__(self, scene: Scene, node: str) -> None:
        super().__init__(("n1", "n2"))
        self.state = scene.at(node)  # type: ignore[assignment]
        self._node = node

    @property
    def node(self) -> str:
        return self._node


class Client(Browser):
    """A browser whose requests reach `handler`, with the session, on one node."""

    def __init__(
        self, scene: Scene, node: str, handler: Callable[[Any], Any], jar: dict[str, str]
    ) -> None:
        self.handler = handler
        self.engine = Served(scene, node)
        super().__init__(middleware(self._handle, self.engine), jar)

    async def _handle(self, scope: Scope, receive: Receive, send: Send) -> None:
        await reply(send, self.handler(scope["session"]))


# --- what travels --------------------------------------------------------------------------------


@simulated(options=Options(limits=Limits(session_bytes=2 << 20)))
async def test_one_changed_element_of_a_hundred_travels_alone(scene: Scene) -> None:
    """System 2 (a): of 100 elements of 10 KB less than 15 KB is sent, the message names the one
    that was changed, and the copies are equal on all 100."""
    await begin(scene, **LARGE)
    heard = listen(scene, Wire)
    visit = await request(scene, "n1")
    visit.session["element-42"] = "new" * 3_000
    await visit.commit()
    assert 9_000 < sent(heard) < 15_000
    [push] = [message for _, message in heard if isinstance(message, Push)]
    assert [row.name for row in push.elements] == ["element-42"]
    assert content(scene, "n1") == content(scene, "n2")
    assert len(content(scene, "n2")) == 101
    assert copies(scene, "element-42") == ["new" * 3_000] * 2


@simulated()
async def test_each_operation_arrives_as_itself(scene: Scene) -> None:
    """System 2 (c): add, replace and remove; nothing else of the session travels with them."""
    await begin(scene, kept=0, replaced=1, removed=2)
    heard = listen(scene, Push)
    changes: list[tuple[Callable[[Any], object], tuple[str, object]]] = [
        (lambda session: session.update(added=3), ("added", 3)),
        (lambda session: session.update(replaced=4), ("replaced", 4)),
        (lambda session: session.pop("removed"), ("removed", None)),
    ]
    for change, expected in changes:
        visit = await request(scene, "n1")
        change(visit.session)
        await visit.commit()
        (_, push) = heard.pop()
        assert not push.full
        arrived = [(row.name, row.value and decode(row.value)) for row in push.elements]
        assert arrived == [expected]
        assert content(scene, "n1") == content(scene, "n2")
    assert await scene.see("n2") == {"kept": "\0", "replaced": "\4", "added": "\3"}


@simulated(nodes=2)
async def test_a_request_that_reads_sends_at_most_a_touch(scene: Scene) -> None:
    """System 2 (d): under 200 bytes, at most once a minute, and every copy ends later for it."""
    jar: dict[str, str] = {}
    writer = Client(scene, "n1", lambda session: session.update(n=1, cart=[1]), jar)
    reader = Client(scene, "n1", dict, jar)
    await writer.get()
    heard = listen(scene, Wire)

    def deadline() -> int:
        with scene.at("n2").node.store.read() as rows:
            (row,) = [row for key, row in rows.scan(GROUPS) if len(key) == SESSION_ROW]
        return read_session(row).deadline

    before = deadline()
    assert (await reader.get()).json == {"n": 1, "cart": [1]}
    assert heard == []
    await asyncio.sleep(61)
    assert (await reader.get()).json == {"n": 1, "cart": [1]}
    await asyncio.sleep(1)
    assert [(target, type(message)) for target, message in heard] == [("n2", Touch)]
    assert sent(heard) < 200
    assert abs(deadline() - before - 61_000) < 100


@simulated(nodes=2)
async def test_a_change_inside_a_value_travels(scene: Scene) -> None:
    """System 2 (e): without any flag, and without the elements that were only read."""
    jar: dict[str, str] = {}
    await Client(scene, "n1", lambda session: session.update(cart=["tea"], seen=[1]), jar).get()
    heard = listen(scene, Push)
    change = Client(scene, "n1", lambda session: session["cart"].append(session["seen"][0]), jar)
    await change.get()
    [(_, push)] = heard
    assert [(row.name, decode(row.value)) for row in push.elements] == [("cart", ["tea", 1])]
    await scene.crash("n1")
    assert (await Client(scene, "n2", dict, jar).get()).json == {"cart": ["tea", 1], "seen": [1]}


# --- what is seen --------------------------------------------------------------------------------


async def step(scene: Scene, number: int) -> None:
    """A batch of three: replace one element, add another, remove a third."""
    puts = ((name, "value", b"%d" % number) for name in ("n", f"x{number}"))
    change = SessionChange(KEY, puts=tuple(puts), deletes=(f"x{number - 1}",))
    await scene.at("n1").commit(Batch(GROUP, (change,)), fresh=False)


def is_whole(seen: dict[str, str] | None) -> bool:
    """Whether this is the state after some step."""
    return seen is not None and seen == {"n": seen["n"], "x" + seen["n"]: seen["n"]}


@pytest.mark.parametrize("moment", range(12))
def test_a_batch_is_seen_whole_or_not_at_all(moment: int) -> None:
    """System 2 (g), G5: by a sibling while it is committed, and by the backup that takes over
    from a primary that dies at some moment of it."""

    @simulated(engines=2)
    async def scenario(scene: Scene) -> None:
        await scene.create("n1", n="0", x0="0")
        seen: list[dict[str, str] | None] = []

        async def write() -> None:
            for number in range(1, 100):
                await step(scene, number)
                await asyncio.sleep(0.001)

        async def read() -> None:
            while True:
                seen.append(await scene.see("n1", 1))
                await asyncio.sleep(0.0003)

        work = [scene.start(write()), scene.start(read())]
        await asyncio.sleep(0.1 + moment * 0.0004)
        scene.world.crash("n1")
        for task in work:
            task.cancel()
        await asyncio.wait(work)
        await scene.gone_from_view("n1")
        last = await scene.see("n2")
        assert len(seen) > 5
        assert all(is_whole(state) for state in [*seen, last])
        told = [int(state["n"]) for state in [*seen, last] if state is not None]
        assert told == sorted(told)

    scenario()


@simulated(engines=2)
async def test_changes_of_different_elements_at_the_same_time_are_in_every_copy(
    scene: Scene,
) -> None:
    """System 2 (h): of one engine, of two of a node, and of one that lost the group meanwhile."""
    await begin(scene, a=0, b=0, c=0, d=0)
    places = {"a": ("n1", 0), "b": ("n1", 0), "c": ("n1", 1), "d": ("n3", 0)}
    visits = {name: await request(scene, *place) for name, place in places.items()}
    for name, visit in visits.items():
        visit.session[name] = 1
    await asyncio.gather(*(visit.commit() for visit in visits.values()))
    assert [copies(scene, name) for name in places] == [[1, 1]] * 4
    record = scene.world.hosts["n3"].record(GROUP)
    assert record is not None
    primary, backup = record.holders
    assert content(scene, primary) == content(scene, backup)


# --- what is spoilt ------------------------------------------------------------------------------


@simulated(nodes=2)
async def test_of_a_corrupt_element_the_others_are_usable_after_a_failover(scene: Scene) -> None:
    """System 2 (k): one element of the backup's copy is garbage when its primary dies. It alone
    cannot be read, which is reported once, and it can be replaced."""
    jar: dict[str, str] = {}
    values = {f"e{number}": [number] for number in range(10)}
    await Client(scene, "n1", lambda session: session.update(values), jar).get()
    with scene.at("n2").node.store.write() as writer:
        ((key, row),) = [found for found in writer.scan(GROUPS) if found[0].endswith(b"e5")]
        spoilt = msgspec.structs.replace(read_element(row), value=b"\xc1" + b"garbage")
        writer.put(key, write_record(spoilt))
    await scene.crash("n1")

    def use(session: Any) -> Any:
        with pytest.raises(ElementNotReadable, match="e5"):
            session["e5"]
        session["e1"].append(1)
        return {name: session[name] for name in session}

    backup = Client(scene, "n2", use, jar)
    expected = {name: value for name, value in values.items() if name != "e5"}
    for number in range(3):
        expected["e1"] = [1] * (number + 2)
        assert (await backup.get()).json == expected
    assert backup.engine.counts.count("element_unreadable") == 1
    backup.handler = lambda session: session.update(e5="mended")
    assert (await backup.get()).status == 200
    assert (await Client(scene, "n2", dict, jar).get()).json == {**expected, "e5": "mended"}
