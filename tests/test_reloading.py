"""Reloading: what takes effect at once, what is refused, and that a whole node follows."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import pytest

from sessionha.admin.app import build
from sessionha.admin.tally import Tally
from sessionha.admin.tokens import tokens
from sessionha.engine import Engine, witness_of
from sessionha.errors import InvalidSettings
from sessionha.keys import new_secret
from sessionha.reloading import Following, announce, read_again
from sessionha.settings import Settings
from sessionha.store.memory import Memory, MemoryStore
from sessionha.view import NO_MEMBERS
from tests.test_engine import APP_KEYS, create, free_ports, until


class File:
    """A cluster's file, and its secrets beside it."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / "cluster.toml"
        self.secrets = directory / "secrets"
        self.ports = free_ports(3)
        self.settings: dict[str, object] = {"consistency": "available"}
        self.nodes: dict[str, dict[str, object]] = {
            f"n{i}": {"peer": f"127.0.0.1:{port}"} for i, port in enumerate(self.ports, 1)
        }
        del self.nodes["n3"]
        self.write(new_secret())

    def write(self, *secrets: str) -> None:
        if secrets:
            self.secrets.write_text("\n".join(secrets))
        lines = ["[cluster]", f"secret_file = {str(self.secrets)!r}"]
        lines += [f"{name} = {value!r}" for name, value in self.settings.items()]
        for node, fields in self.nodes.items():
            lines += ["[[node]]", f"id = {node!r}"]
            lines += [f"{name} = {value!r}" for name, value in fields.items()]
        self.path.write_text("\n".join(lines))

    def engine(self, node: str) -> Engine:
        given: dict[str, object] = {
            "config": self.path, "node": node, "store": "memory", "store_size": "8MB",
            "admin": "off", "discovery_time": 0.2, "backups": 1,
        }  # fmt: skip
        return Engine(Settings.load({}, **given), APP_KEYS)


@pytest.fixture
def file(tmp_path: Path) -> File:
    return File(tmp_path)


Start = Callable[[str], Engine]


@pytest.fixture
async def pair(file: File) -> AsyncIterator[tuple[Engine, Engine]]:
    """n1 and n2 of the file, which are one cluster."""
    one, two = file.engine("n1"), file.engine("n2")
    await asyncio.gather(one.start(), two.start())
    await until(lambda: all(len(each.membership.view().members) == 2 for each in (one, two)))
    yield one, two
    for each in (one, two):
        await each.stop()


async def test_nodes_their_places_and_roles_change_without_a_restart(
    file: File, pair: tuple[Engine, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """Zones, weights, roles, URLs and engines of running nodes, and a node that is added; what
    cannot change at once is named."""
    caplog.set_level(logging.WARNING)
    one, two = pair
    url = f"http://127.0.0.1:{file.ports[0]}"
    file.nodes["n2"] |= {"zone": "west", "weight": 3, "role": "spare", "url": url}
    file.nodes["n3"] = {"peer": f"127.0.0.1:{file.ports[2]}"}
    file.settings |= {"commit_timeout": 2.5, "elements": 99, "depth": 9}
    file.write()
    found = one.reload()
    assert found.changed == (
        "`commit_timeout`: 2 s → 2.5 s",
        "`elements`: 256 → 99",
        "n3 added",
        f"n2: `url` – → {url}",
        "n2: `zone` – → west",
        "n2: `weight` 1 → 3",
        "n2: `role` server → spare",
    )
    assert found.waiting == ("`depth`: 16 → 9",)
    assert one.reload().changed == ()
    two.reload()

    def described() -> bool:
        member = one.membership.view().member("n2")
        return member is not None and (member.zone, member.weight, member.role, member.url) == (
            "west", 3, "spare", url,
        )  # fmt: skip

    await until(described)
    three = file.engine("n3")
    await three.start()
    try:
        await until(lambda: len(one.membership.view().members) == 3)
        assert (await one.state.commit(create(), fresh=True)).holders == ("n1", "n3")
    finally:
        await three.stop()
    assert one.state.node.options.limits.elements == 99
    assert [each for each in caplog.messages if "depth" not in each and "alone" not in each] == []


async def test_who_is_not_described_is_refused_until_a_reload_and_leaves_after_one(
    file: File, pair: tuple[Engine, Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """System 3 (j), over real streams: both sides name the node and the remedy."""
    caplog.set_level(logging.INFO)
    file.nodes["n3"] = {"peer": f"127.0.0.1:{file.ports[2]}"}
    file.write()
    three = file.engine("n3")
    starting = asyncio.create_task(three.start())
    try:
        words = "n3 is not in the description of n1; describe it there and `sessionha reload`"
        await until(lambda: f"join refused: {words}" in caplog.text)
        await until(lambda: f"n1 refuses this node: {words}" in caplog.text)
        for each in pair:
            assert each.reload().changed == ("n3 added",)
        await starting
        await until(lambda: len(three.membership.view().members) == 3)
        del file.nodes["n3"]
        file.write()
        for each in pair:
            assert each.reload().changed == ("n3 removed",)
        await until(lambda: pair[1].membership.view().nodes == ("n1", "n2"))
        await until(lambda: not three.membership.is_member())
    finally:
        await starting
        await three.stop()


async def test_a_wrong_file_changes_nothing_and_every_mistake_is_told(
    file: File, pair: tuple[Engine, Engine]
) -> None:
    one, two = pair
    before = one.settings
    file.nodes["n2"] |= {"wieght": 2}
    file.settings["commit_timeout"] = "soon"
    file.write()
    with pytest.raises(InvalidSettings) as caught:
        one.reload()
    assert len(caught.value.problems) == 2
    assert "line 4) must be" in caught.value.problems[0]
    assert "did you mean `weight`?" in caught.value.problems[1]
    file.path.write_text("[cluster")
    with pytest.raises(InvalidSettings, match="is not TOML"):
        one.reload()
    assert one.settings is before
    assert one.membership.is_member()
    assert two.settings.description.hash == before.description.hash


async def test_what_would_not_fit_to_what_stays_is_refused(
    file: File, pair: tuple[Engine, Engine]
) -> None:
    file.settings |= {"commit_timeout": 1.0, "suspect_after": 0.75, "confirm_after": 0.1}
    file.write()
    with pytest.raises(InvalidSettings, match="what it depends on waits for a restart"):
        pair[0].reload()
    assert pair[0].settings.commit_timeout == 2.0


@pytest.mark.parametrize(
    ("node", "fields", "words"),
    [
        ("n1", None, "`node` = 'n1' is not one of the configured nodes"),
        ("n1", {"peer": "127.0.0.1:1"}, "the peer address of this node, n1, cannot change"),
        ("n2", {"peer": "127.0.0.1:1"}, "the peer address of n2 cannot change while it is a mem"),
        ("n1", {"role": "witness"}, "n1 cannot become, or cease to be, a witness"),
    ],
)
async def test_what_cannot_change_while_a_node_runs_is_refused(
    file: File,
    pair: tuple[Engine, Engine],
    node: str,
    fields: dict[str, object] | None,
    words: str,
) -> None:
    if fields is None:
        del file.nodes[node]
    else:
        file.nodes[node] |= fields
    file.nodes["n3"] = {"peer": f"127.0.0.1:{file.ports[2]}"}
    if fields == {"role": "witness"}:
        file.settings["consistency"] = "quorum"
    file.write()
    with pytest.raises(InvalidSettings, match=words):
        pair[0].reload()
    assert pair[0].settings.description.order == ("n1", "n2")


async def test_secrets_are_exchanged_node_by_node(file: File, pair: tuple[Engine, Engine]) -> None:
    """Contract, section 8: `secret_file` is read again; new streams, cookies and tokens use it,
    and a secret that the others do not know yet is refused."""
    one, two = pair
    old, new = file.secrets.read_text(), new_secret()
    token = tokens(one.settings, "operate")[0]
    file.write(new)
    with pytest.raises(InvalidSettings, match="leave the old one behind the new one"):
        one.reload()
    cookies = one.route_cookies
    file.write(new, old)
    assert one.reload().changed == ("the cluster secret",)
    assert one.route_cookies is not cookies
    assert one.streams is not None
    one.streams.drop_all()
    assert (await one.state.commit(create(), fresh=True)).copies == 1
    two.reload()
    app = httpx.ASGITransport(build(one, Tally(one.state.node.store)))
    async with httpx.AsyncClient(transport=app, base_url="http://n1") as client:

        async def reload(bearer: str) -> httpx.Response:
            headers = {"authorization": f"Bearer {bearer}"}
            return await client.post("/v1/reload", headers=headers)

        assert (await reload(tokens(one.settings, "read")[0])).status_code == 403
        told = await reload(token)
        assert told.json() == {"node": "n1", "changed": [], "waiting": []}
        file.write(new)
        assert (await reload(token)).json()["changed"] == ["the cluster secret"]
        assert (await reload(token)).status_code == 401
        file.settings["heartbeet"] = 1
        file.write()
        refused = await reload(tokens(one.settings, "operate")[0])
        assert refused.status_code == 400
        assert "did you mean `heartbeat`?" in refused.text


async def test_every_engine_of_a_node_follows_a_reload(caplog: pytest.LogCaptureFixture) -> None:
    """Once each; one that cannot says so, and one that starts later has read the new file."""
    node = Memory()
    stores = [MemoryStore(node).open() for _ in range(3)]
    reloads: list[str] = []

    def refuse() -> None:
        raise InvalidSettings(["`heartbeat` is wrong"])

    first = Following(stores[0], lambda: reloads.append("first"), lambda: None)
    second = Following(stores[1], lambda: reloads.append("second"), lambda: None)
    broken = Following(stores[1], refuse, lambda: None)
    first.known = announce(stores[0])
    late = Following(stores[2], lambda: reloads.append("late"), lambda: None)
    for _ in range(2):
        for each in (first, second, broken, late):
            each.look()
    assert reloads == ["second"]
    assert "this process goes on with the settings it has: `heartbeat` is wrong" in caplog.text


def test_a_witness_stays_small_when_it_reads_again(file: File) -> None:
    file.settings["consistency"] = "quorum"
    file.nodes["n3"] = {"peer": f"127.0.0.1:{file.ports[2]}", "role": "witness"}
    file.write()
    witness = witness_of(Settings.load({}, config=file.path, node="n3"))
    file.nodes["n1"]["weight"] = 2
    file.write()
    found = read_again(witness.settings, NO_MEMBERS)
    assert (found.changed, found.waiting) == (("n1: `weight` 1 → 2",), ())
