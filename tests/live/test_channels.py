"""Changes after the start of a response outlive the server too (contract R15, system 5.11)."""

from __future__ import annotations

import aiohttp

from tests.live.clients import Browser
from tests.live.cluster import Cluster, until


async def survivors_say(cluster: Cluster, browser: Browser, expected: dict[str, object]) -> None:
    """The primary dies, and every other node serves this session."""
    await cluster.kill(browser.primary)
    for name in cluster.living:
        answer = await browser.get(f"{cluster[name].url}/read")
        assert (answer.status, answer.session) == (200, expected)


async def test_what_a_websocket_was_told_is_committed_outlives_the_server(
    browser: Browser, http: aiohttp.ClientSession
) -> None:
    """system 5.11: each message is a commit of its own; the server dies with the socket open."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/increment")
        url = f"ws://127.0.0.1:{cluster['n1'].port}/talk"
        async with http.ws_connect(url, headers=browser.headers()) as socket:
            for token in ("a", "b"):
                await socket.send_str(token)
                assert await socket.receive_json() == {"token": token, "copies": 1}
            await survivors_say(cluster, browser, {"n": 1, "talks": 1, "a": True, "b": True})
            message = await socket.receive()
            assert message.type in (aiohttp.WSMsgType.CLOSED, aiohttp.WSMsgType.CLOSE)


async def test_a_session_can_begin_with_a_websocket(
    browser: Browser, http: aiohttp.ClientSession
) -> None:
    """Its handshake sets the cookies, and what follows is there for requests."""
    async with Cluster(2) as cluster:
        url = f"ws://127.0.0.1:{cluster['n1'].port}/talk"
        async with http.ws_connect(url) as socket:
            for name, morsel in socket._response.cookies.items():
                browser.cookies[name] = morsel.value
            await socket.send_str("a")
            await socket.receive_json()
        await survivors_say(cluster, browser, {"talks": 1, "a": True})


async def test_a_change_between_two_pieces_of_a_body_outlives_the_server(browser: Browser) -> None:
    """system 5.11: committed within the stream, before its second piece was sent."""
    async with Cluster(3) as cluster:
        answer = await browser.post(f"{cluster['n1'].url}/stream")
        assert (answer.status, answer.body) == (200, "one two")
        await survivors_say(cluster, browser, {"before": True, "within": True})


async def test_a_change_in_a_background_task_outlives_the_server(browser: Browser) -> None:
    """system 5.11: committed when the task has ended, which is after the response."""
    async with Cluster(3) as cluster:
        await browser.post(f"{cluster['n1'].url}/background")

        async def committed() -> bool:
            answer = await browser.get(f"{cluster['n1'].url}/read")
            return "after" in answer.session

        await until("the background task has ended", committed)
        await survivors_say(cluster, browser, {"before": True, "after": True})
