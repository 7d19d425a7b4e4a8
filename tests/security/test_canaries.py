"""Secrets, session IDs and values stay out of logs, tracebacks, reprs, metrics and status."""

from __future__ import annotations

import asyncio
import base64
import secrets
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from sessionha.admin.tokens import ROLES, tokens
from sessionha.errors import InvalidSettings, PeerUnavailable
from sessionha.identity import Epoch, Position
from sessionha.keys import new_secret
from sessionha.peer.messages import (
    Batch,
    Done,
    ElementRow,
    Fetched,
    Forward,
    Granted,
    Push,
    SessionChange,
)
from sessionha.peer.streams import Streams
from sessionha.session.cookies import Ticket
from sessionha.session.session import Known, Session
from sessionha.settings import Settings
from sessionha.state.base import Elements, Held, Loaded
from sessionha.state.records import ElementRecord, Row
from tests.security.cluster import Cluster, running

REACHED = (
    "RuntimeError: the application failed",
    "ElementNotEncodable",
    "SessionTooLarge",
    "another cluster secret",
    "asyncio Executing",
    '"members"',
)
"""What the test provokes, as logs and answers tell of it: it would show nothing without."""

PATIENT = {
    "SESSIONHA_SUSPECT_AFTER": "5s",
    "SESSIONHA_COMMIT_TIMEOUT": "20s",
    "SESSIONHA_ACQUIRE_TIMEOUT": "20s",
    "SESSIONHA_DRAIN_TIMEOUT": "30s",
}
"""Everything takes much longer where every callback is logged; a killed node refuses at once."""

GROUP, KEY = b"g" * 12, b"k" * 16
POSITION = Position(Epoch(1, 1, "n1"), 1)


# --- reprs ----------------------------------------------------------------------------------------


def _messages(value: bytes) -> Iterator[object]:
    row = ElementRow(KEY, "name", 1, "value", value)
    push = Push(
        GROUP, POSITION, True, POSITION.epoch, 1, 1, (), ("n1",), (1, ""), ("n1",), 0, (), (row,)
    )  # fmt: skip
    batch = Batch(GROUP, (SessionChange(KEY, puts=(("name", "value", value),)),))
    return iter((push, Granted(push), Fetched(push), batch, Forward(batch)))


def test_no_message_shows_a_value() -> None:
    for message in _messages(b"canary"):
        assert "canary" not in repr(message)
        assert "'name'" in repr(message)


def test_no_record_shows_a_value_or_a_session_id() -> None:
    elements = Elements({"name": ("value", b"canary")})
    known = Known("canary", KEY, elements)
    records = [
        ElementRecord(1, "value", b"canary"),
        Row(KEY, "name", b"canary"),
        elements,
        Loaded(Held(POSITION, ("n1",)), 0, 0, 0, None, False, elements),
        Ticket("canary", GROUP, 0),
        known,
        Session(known),
    ]
    assert [each for each in map(repr, records) if "canary" in each] == []


def test_no_settings_show_a_secret() -> None:
    secret = new_secret()
    settings = Settings.load({}, listen="127.0.0.1:7946", secret=secret)
    assert secret not in repr(settings) + repr(settings.explain())


def test_a_refused_secret_is_not_told() -> None:
    with pytest.raises(InvalidSettings) as caught:
        Settings.load({}, listen="127.0.0.1:7946", secret="canary")
    assert "canary" not in str(caught.value) + repr(caught.value)


# --- a cluster where everything is logged ---------------------------------------------------------


def _spellings(canary: str) -> set[str]:
    """How a secret could be written in a log: as it is, in hexadecimal, in base64."""
    raw = canary.encode()
    found = {canary, raw.hex()}
    for shift in range(3):  # wherever it begins inside a longer text that was encoded
        inner = base64.b64encode(b"\0" * shift + raw).decode()[4:-4]
        found |= {inner, inner.replace("+", "-").replace("/", "_")}
    return found


@pytest.fixture
async def cluster(tmp_path: Path) -> AsyncIterator[Cluster]:
    async with running(tmp_path, {"PYTHONASYNCIODEBUG": "1", **PATIENT}) as made:
        yield made


class Browser:
    """One client; sends its cookies to whichever node, and remembers every session ID."""

    def __init__(self, cluster: Cluster, client: httpx.AsyncClient, authorization: str) -> None:
        self._cluster = cluster
        self._client = client
        # Uvicorn closes a connection whose application failed: no request may be sent on it.
        self._headers = {"authorization": authorization, "connection": "close"}
        self.jar: dict[str, str] = {}
        self.ids: set[str] = set()

    async def post(self, index: int, path: str, body: str = "") -> httpx.Response:
        cookies = "; ".join(f"{name}={value}" for name, value in self.jar.items())
        answer = await self._client.post(
            f"http://127.0.0.1:{self._cluster.ports[index]}/{path}",
            content=body,
            headers={**self._headers, "cookie": cookies},
        )
        for header in answer.headers.get_list("set-cookie"):
            name, _, value = header.partition(";")[0].partition("=")
            self.jar[name] = value
            if name == "session" and len(value) > 56:
                self.ids.add(value[:56])
        self._client.cookies.clear()
        return answer


async def _strangers(cluster: Cluster, secret: str) -> None:
    """Peers with another cluster secret, and bytes that are no peer's."""

    async def nobody(*_: object) -> Done:
        return Done()

    stranger = Streams(
        "n9",
        "default",
        nobody,
        secrets=lambda: (secret.encode(),),
        incarnation=lambda: "incarnation-of-n9",
    )
    stranger.know({f"n{index}": f"127.0.0.1:{port}" for index, port in enumerate(cluster.peers)})
    for index in range(3):
        with pytest.raises(PeerUnavailable):
            await stranger.call(f"n{index}", Done(), 1.0)
    await stranger.close()
    for port in cluster.peers:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"\x16\x03\x01 no request at all\r\n\r\n")
        await writer.drain()
        writer.close()
        await writer.wait_closed()


@pytest.mark.processes
@pytest.mark.slow
async def test_no_canary_is_ever_logged_or_told(cluster: Cluster) -> None:
    """Good and failing requests, forged cookies, strangers among the peers and the death of a
    primary, with every logger and asyncio's debug mode at their most talkative."""
    value, wrong = f"value-{secrets.token_hex(16)}", new_secret()
    subject = f"user-{secrets.token_hex(16)}"
    authorization = f"Bearer {secrets.token_urlsafe(24)}"
    settings = Settings.observe({"SESSIONHA_SECRET": cluster.secret})
    handed_out = {role: tokens(settings, role)[0] for role in ROLES}
    told = []

    async with httpx.AsyncClient(trust_env=False, timeout=30) as client:
        browser = Browser(cluster, client, authorization)

        router = cluster.start_router()
        await cluster.ready(router)

        assert (await browser.post(0, "put", value)).is_success
        assert (await browser.post(1, "get")).text == value
        for path in ("crash", "unencodable", "no_text", "oversized"):
            for index in (0, router):
                answer = await browser.post(index, path, value)
                assert (path, answer.status_code) == (path, 500)
                assert value not in answer.text
        assert (await browser.post(0, "renew")).status_code == 200
        assert (await browser.post(1, "log_in", subject)).status_code == 200
        for index in range(3):
            assert (await browser.post(index, "devices")).status_code == 200
        for index in range(3):
            assert (await browser.post(index, "show")).status_code == 200

        good = dict(browser.jar)
        for name in good:
            browser.jar = {**good, name: good[name][:-6] + "AAAAAA"}
            for index in (0, router):
                await browser.post(index, "get")
        browser.jar = {**good, "session": good["session"][:-1] + '"; x="y'}
        for index in (0, router):
            await browser.post(index, "get")
        browser.jar = good
        await _strangers(cluster, wrong)

        primary = cluster.index_of(int((await browser.post(router, "put", value)).text))
        cluster.kill(primary)
        for index in (router, *cluster.living()):
            assert (await browser.post(index, "get")).text == value

        for index in cluster.living():
            base = f"http://127.0.0.1:{cluster.admins[index]}"
            for given in (*handed_out.values(), f"{handed_out['read']}x", "é"):
                bearer = {b"authorization": f"Bearer {given}".encode()}
                told += [
                    (await client.get(f"{base}/{path}", headers=bearer)).text
                    for path in ("metrics", "v1/status", f"v1/subjects/{subject}")
                ]
            data = {"authorization": f"Bearer {handed_out['data']}"}
            address = f"{base}/v1/subjects/{subject}"
            assert len((await client.get(address, headers=data)).json()["sessions"]) == 1
            answer = await client.delete(f"{address}?session={'A' * 16}", headers=data)
            assert answer.json()["ended"] == 0

        cluster.start(primary)
        await cluster.ready(primary)
        assert (await browser.post(primary, "get")).text == value
        assert (await browser.post(primary, "end")).status_code == 200
    await asyncio.to_thread(cluster.stop)

    seen = cluster.logged() + "\n".join(told)
    for expected in REACHED:
        assert expected in seen, f"the test did not reach {expected}"
    assert any(
        line.startswith("sessionha_promotions_total") and not line.endswith(" 0.0")
        for line in seen.splitlines()
    )
    assert len(browser.ids) >= 2

    canaries = {
        "cluster secret": cluster.secret,
        "a stranger's secret": wrong,
        "application key": cluster.key,
        "element value": value,
        "subject": subject,
        "authorization": authorization.partition(" ")[2],
        **{f"token to {role}": token.split("-", 2)[2] for role, token in handed_out.items()},
        **{f"session ID {place}": each[16:40] for place, each in enumerate(browser.ids)},
    }
    found = [
        (name, line)
        for name, canary in canaries.items()
        for spelling in _spellings(canary)
        if spelling in seen
        for line in seen.splitlines()
        if spelling in line
    ]
    assert found == []
