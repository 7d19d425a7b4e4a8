"""The router as `sessionha router` builds it: from settings, following a node over a stream."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from msgspec.structs import replace

from sessionha.errors import InvalidSettings
from sessionha.keys import ROUTE_LABEL
from sessionha.peer.base import Sender
from sessionha.peer.messages import Done, Installed, Message, Watch
from sessionha.peer.streams import Streams
from sessionha.router.options import Options
from sessionha.router.serve import Service, Serving, build, serve
from sessionha.session.cookies import RouteCookies
from sessionha.settings import Settings
from sessionha.view import NO_MEMBERS
from tests.router.conftest import World, member, route_cookie, serving, view_of

SECRET = "correct-horse-battery-staple-0123456789-ABCDEFGH"


async def test_a_router_built_from_settings_follows_the_view_over_a_stream(world: World) -> None:
    n1, n2 = await world.node("n1"), await world.node("n2")
    view = NO_MEMBERS
    asked = asyncio.Queue[str]()

    async def handle(sender: Sender, message: Message) -> Message | None:
        assert isinstance(message, Watch)
        asked.put_nowait(sender.node)
        if message.view == tuple(view.id):
            await asyncio.Event().wait()
            return Done()
        return Installed(view)

    streams = Streams(
        "n1", "shop", handle, secrets=lambda: (SECRET.encode(),), incarnation=lambda: "inc-n1"
    )
    host, port = await streams.start_listening("127.0.0.1", 0)
    first = replace(member("n1", n1.url), peer=f"{host}:{port}")
    view = view_of(first, member("n2", n2.url))
    settings = Settings.observe({}, cluster="shop", nodes=f"n1=http://{host}:{port}", secret=SECRET)
    router = build(settings)
    await router.start()
    try:
        world.url = await world.enter(serving(router))
        await asyncio.wait_for(asked.get(), 10)
        asker = await asyncio.wait_for(asked.get(), 10)  # so the first answer was taken
        assert asker.startswith("router-")
        assert router.upstreams.view == view
        cookie = route_cookie("n2", "n1", key=settings.keys(ROUTE_LABEL)[0])
        assert await world.request("GET", "/", cookie) == (200, "n2")
    finally:
        await router.stop()
        await streams.close()


def test_a_router_without_nodes_says_which_setting_is_missing() -> None:
    with pytest.raises(InvalidSettings, match="`nodes` is empty"):
        build(Settings.observe({}, secret=SECRET))


def test_a_listen_address_without_a_port_is_refused() -> None:
    settings = Settings.observe({}, nodes="n1=http://127.0.0.1:1", secret=SECRET)
    with pytest.raises(InvalidSettings, match="host:port"):
        serve(settings, Service(listen="localhost"))


def test_a_router_is_told_of_the_nodes_by_discovery_too() -> None:
    settings = Settings.observe({}, secret=SECRET, nodes="dns://shop:7946")
    assert build(settings).upstreams.view == NO_MEMBERS


def of_file(file: Path, secret: str) -> Settings:
    file.write_text(secret)
    file.chmod(0o600)
    return Settings.observe({}, nodes="n1=http://127.0.0.1:1", secret_file=str(file))


def test_a_reload_takes_new_secrets_over(tmp_path: Path) -> None:
    file = tmp_path / "secret"
    serving = Serving(of_file(file, SECRET), Service(), Options(), None, None)
    renewed = of_file(file, SECRET[::-1])
    cookie = route_cookie("n1", key=renewed.keys(ROUTE_LABEL)[0]).partition("=")[2]
    assert cookies_of(serving).read(cookie) is None
    serving.reload()
    assert cookies_of(serving).read(cookie) is not None


def test_a_reload_that_is_refused_changes_nothing(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    file = tmp_path / "secret"
    settings = of_file(file, SECRET)
    serving = Serving(settings, Service(), Options(), None, None)
    before = cookies_of(serving)
    file.write_text("short")
    serving.reload()
    assert cookies_of(serving) is before
    assert "goes on with the settings it has" in caplog.text


def cookies_of(serving: Serving) -> RouteCookies:
    found = serving._router._cookies
    assert found is not None
    return found


def test_a_witness_does_not_go_with_several_workers() -> None:
    class Beside:
        async def start(self) -> None: ...

        async def stop(self) -> None: ...

    settings = Settings.observe({}, nodes="n1=http://127.0.0.1:1", secret=SECRET)
    with pytest.raises(InvalidSettings, match="a witness is one process"):
        serve(settings, Service(workers=2), beside=Beside())


@pytest.mark.parametrize("service", [Service(metrics="nowhere"), Service(tls_certificate="/none")])
def test_what_cannot_be_served_is_said_before_the_router_starts(service: Service) -> None:
    settings = Settings.observe({}, nodes="n1=http://127.0.0.1:1", secret=SECRET)
    with pytest.raises(InvalidSettings, match=r"`metrics`|/none"):
        serve(settings, service)
