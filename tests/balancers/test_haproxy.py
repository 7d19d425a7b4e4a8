"""HAProxy: what the run-time API changes, what needs a reload, and how POSTs are sent."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import aiohttp
import msgspec
import pytest

from demo_app.fronts import executable
from sessionha.balancers.base import Options
from sessionha.balancers.document import Cookie, Document, document_of, keys_of
from sessionha.balancers.haproxy import CONFIGURATION, HAProxy
from sessionha.balancers.installing import run, write
from tests.balancers.fronts import require, running
from tests.balancers.test_vectors import answer, clients
from tests.balancers.toys import Toys
from tests.balancers.vectors import route_cookie, settings, view_of

KEYS = keys_of(settings())


def document(urls: Mapping[str, str], **nodes: str) -> Document:
    return document_of(view_of(nodes, urls), settings())


def to(*names: str) -> dict[str, str]:
    """The headers of a client whose cookie names these."""
    return {"cookie": f"hsr={route_cookie(list(names))}"}


def keeping() -> aiohttp.ClientSession:
    """A client that keeps its connection."""
    return aiohttp.ClientSession(
        cookie_jar=aiohttp.DummyCookieJar(), connector=aiohttp.TCPConnector(limit=1)
    )


async def test_the_run_time_api_changes_servers_and_loses_no_connection() -> None:
    """A reload would start another process, and end the client's connection."""
    toys = Toys("n1", "n2", "n3")
    async with toys, running("haproxy", settings()) as balancer, keeping() as kept:
        await balancer.tell(document(toys.urls, n1="up", n2="up"))
        workers = balancer.processes()
        assert await answer(kept, balancer, to("n2", "n1")) == "n2"
        await balancer.tell(document(toys.urls, n1="up", n2="drain", n3="up"))
        assert await answer(kept, balancer, to("n2", "n3")) == "n3"
        assert {await answer(kept, balancer, {}) for _ in range(6)} == {"n1", "n3"}
        moved = {**toys.urls, "n3": toys.urls["n1"]}
        await balancer.tell(document(moved, n2="up", n3="up"))
        assert await answer(kept, balancer, to("n3")) == "n1", "n3 is where n1 was"
        assert await answer(kept, balancer, to("n1", "n2")) == "n2", "n1 is no member"
        await balancer.tell(document(toys.urls, n1="up", n3="up"))
        assert await answer(kept, balancer, to("n2", "n3")) == "n3"
        assert balancer.processes() == workers


async def test_keys_are_changed_while_it_runs() -> None:
    toys = Toys("n1", "n2")
    async with toys, running("haproxy", settings()) as balancer, clients() as http:
        told = document(toys.urls, n1="up", n2="up")
        await balancer.tell(told)
        newest = {"newest": b"k" * 32}
        options, haproxy = balancer.front.options, HAProxy()
        write(options.place, haproxy.files(told, newest, options))
        assert await haproxy.adopt(told, newest, options)
        found = {await answer(http, balancer, to("n1")) for _ in range(6)}
        assert found == {"n1", "n2"}, "signed by a key that is not known any more"
        assert await haproxy.adopt(told, KEYS, options)
        assert {await answer(http, balancer, to("n1")) for _ in range(6)} == {"n1"}


async def test_what_the_run_time_api_cannot_change_needs_a_reload() -> None:
    toys = Toys("n1")
    async with toys, running("haproxy", settings()) as balancer:
        told = document(toys.urls, n1="up")
        await balancer.tell(told)
        options, haproxy = balancer.front.options, HAProxy()
        assert await haproxy.adopt(told, KEYS, options)
        renamed = msgspec.structs.replace(told, cookie=Cookie(name="other"))
        assert not await haproxy.adopt(renamed, KEYS, options), "another cookie"
        named = document({**toys.urls, "n2": "http://localhost:1"}, n1="up", n2="up")
        assert not await haproxy.adopt(named, KEYS, options), "a name that must be looked up"
        elsewhere = Options(place=options.place, verify=True, socket=f"{options.socket}.none")
        assert not await haproxy.adopt(told, KEYS, elsewhere), "nobody answers there"
        before = balancer.processes()
        await balancer.tell(renamed)
        assert not before & balancer.processes()
        assert await haproxy.adopt(renamed, KEYS, options)


async def test_a_post_whose_server_dies_is_answered_on_a_used_connection_too() -> None:
    """HAProxy would hang up, and browsers would send the POST again."""
    toys = Toys("n1", "n2")
    async with toys, running("haproxy", settings()) as balancer, keeping() as kept:
        await balancer.tell(document(toys.urls, n1="up", n2="up"))
        assert await answer(kept, balancer, to("n1", "n2")) == "n1"
        toys["n1"].dies = True
        async with kept.post(balancer.url, data=b"once", headers=to("n1", "n2")) as response:
            assert response.status == 502
        assert not [head for head in toys["n2"].heads if head.startswith("POST")]
        async with kept.get(balancer.url, headers=to("n1", "n2")) as response:
            assert (response.status, await response.text()) == (200, "n2 0")


@pytest.mark.parametrize("url", ["https://10.0.0.1:8443", "http://localhost:1", "http://[::1]:1"])
async def test_haproxy_accepts_any_kind_of_address(url: str, tmp_path: Path) -> None:
    require("haproxy")
    options = Options(place=tmp_path, verify=True)
    told = document({"n1": url, "n2": url}, n1="up", n2="spare")
    write(tmp_path, HAProxy().files(told, KEYS, options))
    judged = await run([executable("haproxy"), "-c", "-f", str(tmp_path / CONFIGURATION)])
    assert judged.done, judged.words
