"""The router follows the view: from several nodes, past stopped ones, through a cold start."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Mapping

import pytest

from sessionha.errors import PeerUnavailable
from sessionha.identity import NO_VIEW, ViewID
from sessionha.peer.messages import Done, Failed, Installed, Message, Watch, decode, encode
from sessionha.router import follow
from sessionha.router.follow import OUTLIVED, Choice, Follower
from sessionha.view import View
from tests.router.conftest import member, view_of


class Cluster:
    """Nodes that answer `Watch` as members do: at once when the view differs, else they wait."""

    def __init__(self, *nodes: str) -> None:
        self.views: dict[str, View] = dict.fromkeys(nodes, View())
        self.silent: set[str] = set()
        self.known: dict[str, str] = {}
        self.asked: list[str] = []
        self._changed = asyncio.Event()

    def install(self, view: View, *nodes: str) -> None:
        for node in nodes or tuple(self.views):
            self.views[node] = view
        self._changed.set()
        self._changed = asyncio.Event()

    async def call(self, node: str, message: Message, timeout: float) -> Message:
        self.asked.append(node)
        if node not in self.known or node not in self.views:
            raise PeerUnavailable(node, "unknown", sent=False)
        if node in self.silent:
            await asyncio.Event().wait()
        question = decode(encode(message))
        assert isinstance(question, Watch)
        if question.view == tuple(self.views[node].id):
            await self._changed.wait()
        if question.view == tuple(self.views[node].id):
            return Done()
        return decode(encode(Installed(self.views[node])))

    def cast(self, node: str, message: Message) -> None:
        raise AssertionError("an observer only asks")

    def know(self, directory: Mapping[str, str]) -> None:
        self.known = dict(directory)


class Seen:
    """The views that were followed, to wait for."""

    def __init__(self) -> None:
        self.queue: asyncio.Queue[View] = asyncio.Queue()

    async def next(self) -> View:
        return await asyncio.wait_for(self.queue.get(), 10)


@pytest.fixture
def without_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(follow, "PAUSE", 0.0)


def follower(cluster: Cluster, seen: Seen, *seeds: str) -> Follower:
    directory = {node: f"127.0.0.1:{number}" for number, node in enumerate(seeds, 1)}
    return Follower(cluster, directory, seen.queue.put_nowait, random.Random(1))


def three(number: int) -> View:
    return view_of(*(member(node, f"http://{node}") for node in ("n1", "n2", "n3")), number=number)


async def followed(
    cluster: Cluster, seen: Seen, act: Callable[[], object], *seeds: str
) -> list[View]:
    watching = follower(cluster, seen, *seeds)
    watching.start()
    try:
        first = await seen.next()
        act()
        return [first, await seen.next()]
    finally:
        await watching.stop()


async def test_every_new_view_is_told_once_and_in_order() -> None:
    cluster, seen = Cluster("n1", "n2", "n3"), Seen()
    cluster.install(three(1))
    views = await followed(cluster, seen, lambda: cluster.install(three(2)), "n1", "n2", "n3")
    assert [view.id.number for view in views] == [1, 2]
    assert seen.queue.empty()


@pytest.mark.usefixtures("without_pauses")
async def test_one_seed_is_enough_to_learn_of_all_members_and_their_addresses() -> None:
    cluster, seen = Cluster("n1", "n2", "n3"), Seen()
    cluster.install(three(1))

    def lose_the_seed() -> None:
        cluster.silent.add("n1")
        cluster.install(three(2), "n2", "n3")

    views = await followed(cluster, seen, lose_the_seed, "n1")
    assert views[1].id.number == 2
    assert cluster.known == dict.fromkeys(("n1", "n2", "n3"), "127.0.0.1:1")


async def test_a_stopped_node_does_not_keep_the_router_in_the_dark() -> None:
    cluster, seen = Cluster("n1", "n2"), Seen()
    cluster.silent.add("n1")
    cluster.install(three(1))
    watching = follower(cluster, seen, "n1", "n2")
    watching.start()
    assert (await seen.next()).id.number == 1
    await watching.stop()


@pytest.mark.usefixtures("without_pauses")
async def test_unreachable_nodes_and_odd_answers_are_passed_over() -> None:
    cluster, seen = Cluster("n4"), Seen()
    cluster.install(three(1))
    ordinary = cluster.call

    async def call(node: str, message: Message, timeout: float) -> Message:
        if node == "n3":
            return Failed("Odd", "not today")
        return await ordinary(node, message, timeout)

    cluster.call = call  # type: ignore[method-assign]
    watching = follower(cluster, seen, "n1", "n2", "n3", "n4")
    watching.start()
    assert (await seen.next()).id.number == 1
    await watching.stop()


def test_an_excluded_node_that_still_holds_an_old_view_is_not_followed() -> None:
    choice = Choice()
    assert choice.offer(three(7), 0.0)
    for second in range(20):
        choice.confirm(float(second))
        assert not choice.offer(three(6), second + 0.5)
    assert choice.view.id == ViewID(7, "")


def test_a_cluster_that_was_started_anew_is_followed_though_it_counts_from_one() -> None:
    choice = Choice()
    assert choice.offer(three(7), 0.0)
    assert not choice.offer(three(1), OUTLIVED - 0.1)
    assert choice.offer(three(1), OUTLIVED)
    assert choice.view.id == ViewID(1, "")


def test_of_two_sides_of_a_split_the_higher_view_is_followed() -> None:
    choice = Choice()
    assert choice.offer(View(ViewID(4, "n1")), 0.0)
    assert choice.offer(View(ViewID(4, "n3")), 0.1)
    assert not choice.offer(View(ViewID(4, "n1")), 0.2)


def test_nothing_is_followed_before_the_first_answer() -> None:
    assert Choice().view.id == NO_VIEW


async def test_a_router_that_nobody_answers_says_so_once(
    without_pauses: None, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(follow, "ALONE", 0.0)
    cluster, seen = Cluster(), Seen()
    following = follower(cluster, seen, "n1", "n2", "n3")
    with caplog.at_level("INFO", "sessionha.router"):
        following.start()
        while len(cluster.asked) < 9:  # noqa: ASYNC110 (nobody tells that nobody answers)
            await asyncio.sleep(0)
        for node in ("n1", "n2", "n3"):
            cluster.views[node] = three(1)
        await seen.next()
        await following.stop()
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(said) == 1
    assert "the same as theirs" in said[0]
    assert any("can be followed again" in record.getMessage() for record in caplog.records)


async def test_nodes_that_discovery_finds_are_asked_and_where_it_found_them_counts(
    without_pauses: None,
) -> None:
    """Also while the view, of a cluster that was started anew elsewhere, has old addresses."""
    cluster, seen = Cluster("n1", "n2", "n3"), Seen()
    cluster.install(three(1))
    watching = follower(cluster, seen)
    watching.start()
    try:
        watching.seek({"n1": "10.0.0.1:7946"})
        assert await seen.next() == three(1)
        before = dict(cluster.known)
        watching.seek({"n1": "10.0.0.1:7946", "n2": "10.0.0.9:7946"})
        assert cluster.known == before | {"n2": "10.0.0.9:7946"}
        assert before["n1"] == "10.0.0.1:7946"
    finally:
        await watching.stop()
