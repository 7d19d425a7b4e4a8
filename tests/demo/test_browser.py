"""A real browser in the real shop, while servers are killed behind it.

With SCREENSHOTS=DIR the pictures for the documentation are written there.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from demo_app.cluster import Cluster, Plan
from demo_app.control import Control
from tests.demo.browser import Page, browse

pytestmark = [
    pytest.mark.processes,
    pytest.mark.slow,
    pytest.mark.needs("chromium"),
]

WIDE = (1280, 900)
NARROW = (360, 760)

SMALL_BUTTONS = """
[...document.querySelectorAll("button, a.jump, input:not([type=hidden])")]
  .map(element => element.getBoundingClientRect())
  .filter(box => box.width && box.height < 44).length
"""


@pytest.fixture
async def cluster() -> AsyncIterator[Cluster]:
    """Three servers and the router, and the door that the buttons use."""
    made = Cluster(Plan(port=Random().randrange(10_000, 20_000)))
    control = Control(made)
    try:
        await control.start()
        await made.start()
        yield made
    finally:
        await control.stop()
        await made.stop()


@pytest.fixture
async def page(tmp_path: Path) -> AsyncIterator[Page]:
    async with browse("chromium", tmp_path / "profile") as made:
        await made.resize(*WIDE)
        yield made


async def picture(page: Page, name: str) -> None:
    """Keep what the window shows, when pictures are wanted."""
    if directory := os.environ.get("SCREENSHOTS"):
        shot = await page.screenshot()
        Path(directory, f"{name}.png").write_bytes(shot)  # noqa: ASYNC240


async def lines(page: Page) -> list[str]:
    """The cart as a reader sees it."""
    script = "[...document.querySelectorAll('.what')].map(line => line.innerText.trim())"
    found: list[str] = await page.evaluate(script)
    return found


async def kill_the_serving_one(page: Page, cluster: Cluster) -> str:
    """Push the button of the server that made this page; the browser comes back to the shop."""
    node = str(await page.evaluate("document.body.dataset.served"))
    await page.click(f"[data-server={node}] .kill button")
    assert cluster.nodes[node].group is None
    assert await page.text(f"[data-server={node}] .state") == "down"
    return node


async def start_again(page: Page, node: str) -> None:
    """Push the button of a dead server and wait until the page says that it is up."""
    await page.click(f"[data-server={node}] .start button")
    await page.until(f"document.querySelector('[data-server={node}]').dataset.state === 'up'")


async def test_a_cart_and_a_log_out_survive_the_death_of_the_server(
    cluster: Cluster, page: Page
) -> None:
    """Add, log in, kill, add, see both, log out, kill, still logged out; no console error."""
    await page.go(f"{cluster.url}/")
    await page.click("#snake button")
    await page.evaluate("document.getElementById('name').value = 'Ada'")
    await page.click("#login")
    assert await page.text("#user") == "Ada"
    await picture(page, "demo-1-cart")

    first = await kill_the_serving_one(page, cluster)
    assert await page.text("#user") == "Ada"
    assert await page.evaluate("document.body.dataset.served") != first
    assert first in await page.text("#moved")
    await page.click("#fern button")
    assert await lines(page) == ["Snake plant × 1", "Boston fern × 1"]
    await picture(page, "demo-2-killed")

    await start_again(page, first)
    await page.click("#logout")
    assert await page.text("#user") == ""
    await kill_the_serving_one(page, cluster)
    assert await page.text("#user") == ""
    assert await lines(page) == []
    assert page.complaints == []


@pytest.mark.parametrize("dark", [False, True])
async def test_the_page_fits_a_small_telephone(cluster: Cluster, page: Page, dark: bool) -> None:
    """At 360 px nothing scrolls sideways and every button is at least 44 px high."""
    await page.resize(*NARROW, dark=dark)
    await page.go(f"{cluster.url}/")
    for selector in ("#monstera button", "#monstera button", "#rubber button"):
        assert await page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]
        assert await page.evaluate(SMALL_BUTTONS) == 0
        await page.click(selector)
    await page.evaluate(
        "document.getElementById('name').value = 'Ada of the very long name, third'"
    )
    await page.click("#login")
    await page.evaluate("scrollTo(0, 0)")
    assert await page.evaluate("document.documentElement.scrollWidth") <= NARROW[0]
    assert await page.evaluate(SMALL_BUTTONS) == 0
    await picture(page, "demo-3-narrow-dark" if dark else "demo-3-narrow")
    await page.resize(*WIDE, dark=dark)
    assert await page.evaluate(SMALL_BUTTONS) == 0
    assert page.complaints == []
