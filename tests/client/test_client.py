"""The client, blocking and asynchronous, at a listener of its own."""

from __future__ import annotations

import asyncio
import socket
import sys
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from importlib import import_module

import pytest

from sessionha.admin.tokens import tokens
from sessionha.client import AsyncClient, AsyncRemoteSession, Client, RemoteSession
from sessionha.errors import (
    CommitUnconfirmed,
    ElementNotEncodable,
    ElementNotReadable,
    NoSession,
    OperationRefused,
    RequestRefused,
    SessionTooLarge,
    SessionUnavailable,
    StoreFull,
    WrongManager,
)
from sessionha.peer.messages import Batch, SessionChange
from tests.client.node import SETTINGS, TOKEN, Node, listening

NEVER = "A" * 56


@pytest.fixture
async def node() -> AsyncIterator[Node]:
    async with listening() as made:
        since = datetime(2026, 1, 2, tzinfo=UTC)
        await made.visitor.begins(cart={"lines": []}, theme="dark", since=since)
        yield made


async def test_a_session_is_a_mapping(node: Node) -> None:
    def use(session: RemoteSession) -> None:
        assert session["since"] == datetime(2026, 1, 2, tzinfo=UTC)
        assert set(session) == {"cart", "theme", "since"}
        assert len(session) == 3
        assert "theme" in session
        assert session.get("absent", "default") == "default"
        session["tags"] = {"a", ("b", 1)}
        session["theme"] = {"now": "a map"}  # of another data manager than the text had
        session.update(n=1, m=2)
        del session["m"]
        assert dict(session.items())["n"] == 1
        assert {"a", ("b", 1)} in session.values()
        with pytest.raises(KeyError, match="absent"):
            session["absent"]
        with pytest.raises(KeyError, match="absent"):
            del session["absent"]
        with pytest.raises(KeyError, match=r"the session has no element 'absent'.*nothing was"):
            session.patch("absent", ["append", [], ["x"]])

    await node.blocking(use)
    found = await node.visitor.does(dict)
    assert found.keys() == {"cart", "theme", "since", "tags", "n"}
    assert found["tags"] == {"a", ("b", 1)}
    await node.blocking(RemoteSession.clear)
    assert await node.blocking(RemoteSession.load) == {}


async def test_parts_are_changed_where_they_are(node: Node) -> None:
    def use(session: RemoteSession) -> None:
        written = session.patch("cart", ["append", ["lines"], [{"sku": "leaf", "n": 1}]])
        assert written.copies == 0
        assert session.increment("cart", 2, "lines", 0, "n") == 3
        assert session.increment("visits") == 1
        assert session.increment("visits", 2.5) == 3.5
        session.patch("log", ["append", [], ["begun"]], manager="list")
        session.write(
            {"theme": "light"},
            {"cart": [["set", ["code"], "A"]], "log": (("append", [], ["done"]),)},
            ["since"],
        )

    await node.blocking(use)
    assert await node.visitor.does(dict) == {
        "cart": {"lines": [{"sku": "leaf", "n": 3}], "code": "A"},
        "theme": "light",
        "visits": 3.5,
        "log": ["begun", "done"],
    }


async def test_the_asynchronous_session_does_the_same(node: Node) -> None:
    async def use(session: AsyncRemoteSession) -> None:
        assert await session.fetch("theme") == "dark"
        await session.write({"theme": "light", "tags": {1}})
        await session.patch("cart", ["append", ["lines"], ["leaf"]])
        counted = await asyncio.gather(*(session.increment("visits") for _ in range(20)))
        assert sorted(counted) == list(range(1, 21))
        assert (await session.load())["tags"] == {1}
        await session.destroy()
        with pytest.raises(NoSession):
            await session.load()

    await node.awaiting(use)
    assert await node.visitor.does(dict) == {}


async def test_errors_are_those_of_the_application(node: Node) -> None:
    address = node.visitor.address

    def use(session: RemoteSession) -> None:
        with pytest.raises(ElementNotEncodable, match="256 bytes"):
            session["x" * 300] = 1
        with pytest.raises(SessionTooLarge) as large:
            session["theme"] = "x" * 70_000
        assert large.value.limit == 64 * 1024
        with pytest.raises(ElementNotEncodable, match=r"theme\.a"):
            session["theme"] = {"a": object()}
        with pytest.raises(OperationRefused, match="nothing is there"):
            session.patch("cart", ["remove", ["absent"]])
        with pytest.raises(KeyError, match="absent"):
            session.patch("absent", ["append", [], [1]])
        with pytest.raises(WrongManager, match="`map`"):
            session.patch("cart", ["append", [], [1]], manager="list")
        with pytest.raises(ElementNotReadable, match="bad"):
            session["bad"]
        assert "bad" not in session.load()

    puts = (("bad", "value", b"\xc1"),)
    change = SessionChange(address.key, puts=puts)
    await node.engine.state.commit(Batch(address.group, (change,)), fresh=False)
    await node.blocking(use)


@pytest.mark.parametrize(
    "error",
    [SessionUnavailable("nobody"), CommitUnconfirmed(("n2", "n3"), 1), StoreFull(10, 20)],
)
async def test_a_refused_commit_is_told_as_it_is(
    node: Node, error: Exception, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def commit(*_: object, **__: object) -> None:
        raise error

    monkeypatch.setattr(node.engine.state, "commit", commit)
    with pytest.raises(type(error)) as caught:
        await node.awaiting(lambda session: session.increment("visits"))
    assert str(caught.value) == str(error)
    assert vars(caught.value) == vars(error)


async def test_without_the_right_proof_there_is_no_session(node: Node) -> None:
    with pytest.raises(RequestRefused, match="sessionha token --role data"):
        await node.blocking(RemoteSession.load, tokens(SETTINGS, "read")[0])
    with pytest.raises(RequestRefused, match="sessionha token --role data"):
        await node.blocking(RemoteSession.load, "sessionha-data-x")

    def strangers() -> None:
        with Client(node.url, TOKEN) as client, pytest.raises(NoSession):
            client.session(NEVER).load()
        with (
            Client(node.url, TOKEN, virtual_server="other") as client,
            pytest.raises(LookupError),
        ):
            client.session(node.visitor.session_id).load()

    await asyncio.to_thread(strangers)


async def test_what_is_no_node_is_named() -> None:
    for url in ("127.0.0.1:7947", "ftp://x", "http://", ""):
        with pytest.raises(ValueError, match="no URL"):
            Client(url, TOKEN)
    with Client("http://127.0.0.1:7947", TOKEN) as client, pytest.raises(ValueError, match="56"):
        client.session("x")

    async def other(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\n<html>")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(other, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}", TOKEN) as asking:
        with pytest.raises(RequestRefused, match="`admin`"):
            await asking.session(NEVER).load()


async def test_an_answer_that_does_not_come_leaves_a_change_unknown() -> None:
    """What was not sent did surely not happen; what was sent may have."""
    with socket.create_server(("127.0.0.1", 0)) as closed:
        port = closed.getsockname()[1]
    async with AsyncClient(f"http://127.0.0.1:{port}", TOKEN) as client:
        with pytest.raises(SessionUnavailable) as refused:
            await client.session(NEVER).increment("n")
        assert not isinstance(refused.value, CommitUnconfirmed)

    async def dies(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    server = await asyncio.start_server(dies, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    async with server, AsyncClient(f"http://127.0.0.1:{port}", TOKEN) as client:
        with pytest.raises(CommitUnconfirmed, match="may have been made"):
            await client.session(NEVER).increment("n")
        with pytest.raises(SessionUnavailable, match="nothing was changed"):
            await client.session(NEVER).load()


async def test_a_client_tells_no_secret(node: Node, caplog: pytest.LogCaptureFixture) -> None:
    """Neither in a log, whatever its level, nor in a repr."""
    caplog.set_level(0)
    await node.blocking(lambda session: session.write({"canary": "canary"}))
    await node.awaiting(lambda session: session.fetch("canary"))
    shown = [record.getMessage() for record in caplog.records]
    with Client(node.url, TOKEN) as client:
        session = client.session(node.visitor.session_id)
        shown += [repr(client), repr(session), repr(session._words), repr(session._words.load())]
        shown.append(str(vars(client)["_transport"]))
    key = str(node.visitor.address).partition(".")[2]
    for secret in ("canary", TOKEN, node.visitor.session_id, key):
        assert [line for line in shown if secret in line] == []


def test_without_its_extra_the_client_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in [name for name in sys.modules if name.startswith("sessionha.client")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "httpx2", None)
    with pytest.raises(ModuleNotFoundError, match=r"sessionha\[client\]"):
        import_module("sessionha.client")
