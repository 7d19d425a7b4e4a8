"""Requests in simulated worlds: they read a session, change it, and commit what is different."""

from __future__ import annotations

from typing import Any

from sessionha.peer.messages import Batch, Message, Wire
from sessionha.session.session import Known, Session
from sessionha.state.base import Receipt, Unsettled
from sessionha.state.records import get_element
from sessionha.values.codec import decode
from tests.simulation.scenes import GROUP, KEY, LIFETIMES, Scene


class Request:
    """One request, from reading to committing."""

    def __init__(self, scene: Scene, node: str, engine: int = 0) -> None:
        self.scene = scene
        self.state = scene.at(node, engine)
        self.session = Session()

    async def open(self) -> Request:
        while True:
            if self.state.held(GROUP, self.scene.cookie) is None:
                await self.state.acquire(GROUP, self.scene.cookie)
            try:
                loaded = self.state.load(GROUP, KEY)
            except Unsettled:
                continue
            assert loaded is not None
            self.read = loaded.held.position
            self.session = Session(Known("id", KEY, loaded.elements))
            return self

    async def commit(self) -> Receipt | None:
        prepared = self.session.prepare(lambda: ("id", KEY), LIFETIMES)
        if not prepared.changes:
            return None
        batch = Batch(GROUP, prepared.changes, self.read)
        receipt = await self.state.commit(batch, fresh=False)
        self.session.settle(prepared, receipt)
        self.scene.cookie = receipt.position
        return receipt


async def begin(scene: Scene, **values: Any) -> None:
    session = Session()
    session.update(values)
    prepared = session.prepare(lambda: ("id", KEY), LIFETIMES)
    receipt = await scene.at("n1").commit(Batch(GROUP, prepared.changes), fresh=True)
    scene.cookie = receipt.position


async def request(scene: Scene, node: str, engine: int = 0) -> Request:
    return await Request(scene, node, engine).open()


def copies(scene: Scene, name: str) -> list[Any]:
    """The element's value in every copy that is in sync."""
    found = []
    for host in scene.world.living:
        record = host.record(GROUP)
        if record is not None and record.held:
            with host.engines[0].state.node.store.read() as reader:
                element = get_element(reader, GROUP, KEY, name)
            assert element is not None
            assert element.value is not None
            found.append(decode(element.value))
    return found


def counted(scene: Scene, name: str) -> int:
    states = (engine.state for host in scene.world.living for engine in host.engines)
    return sum(getattr(state.node.counters, name) for state in states)


def listen(scene: Scene, kind: type[Wire]) -> list[tuple[str, Any]]:
    """Every message of this kind from now on, with its receiver."""
    heard: list[tuple[str, Any]] = []

    def hears(source: str, target: str, message: Message) -> bool:
        del source
        if isinstance(message, kind):
            heard.append((target, message))
        return False

    scene.world.held_back = hears
    return heard
