"""A headless Chromium for tests, driven over its own debugging protocol: no driver, no library."""

from __future__ import annotations

import asyncio
import base64
import itertools
import shutil
import subprocess
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import aiohttp

NAMES = ("chromium", "chromium-browser", "google-chrome")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--disable-dev-shm-usage",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-default-apps",
    "--hide-scrollbars",
    "--remote-debugging-port=0",
)

PATIENCE = 30.0
"""Seconds for anything that the browser does, on a busy machine."""


def executable() -> str | None:
    """The browser of this machine, if there is one."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Refused(Exception):
    """The browser did not do what it was asked."""


class Page:
    """One tab: go, look, click; and everything it complained about."""

    def __init__(self, socket: aiohttp.ClientWebSocketResponse) -> None:
        self.complaints: list[str] = []
        """Errors and warnings of the console, and exceptions of scripts."""
        self._socket = socket
        self._numbers = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def listen(self) -> None:
        """Take in what the browser says until it is closed."""
        async for message in self._socket:
            news = message.json()
            if "id" in news:
                self._answers.pop(news["id"]).set_result(news)
            elif (complaint := _complaint(news["method"], news["params"])) is not None:
                self.complaints.append(complaint)

    async def ask(self, method: str, **parameters: object) -> dict[str, Any]:
        """One command of the protocol. Raises Refused when the browser does not do it."""
        number = next(self._numbers)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        async with asyncio.timeout(PATIENCE):
            news = await answer
        if "error" in news:
            raise Refused(f"{method}: {news['error']}")
        result: dict[str, Any] = news["result"]
        return result

    async def evaluate(self, script: str) -> Any:
        """The value of an expression in the page."""
        answer = await self.ask("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, f"{script}: {answer['exceptionDetails']}"
        return answer["result"].get("value")

    async def go(self, url: str) -> None:
        """Load a page and wait for it."""
        before = await self._document()
        answer = await self.ask("Page.navigate", url=url)
        assert "errorText" not in answer, f"{url}: {answer['errorText']}"
        await self._loaded(before)

    async def click(self, selector: str) -> None:
        """Click what leads to another page, and wait for that."""
        before = await self._document()
        await self.evaluate(f"document.querySelector({selector!r}).click()")
        await self._loaded(before)

    async def text(self, selector: str) -> str:
        """What a reader sees of an element; empty when it is not there."""
        words = await self.evaluate(f"document.querySelector({selector!r})?.innerText ?? ''")
        return str(words).strip()

    async def until(self, script: str) -> None:
        """Wait until an expression is true. Raises TimeoutError."""
        async with asyncio.timeout(PATIENCE):
            while not await self.evaluate(script):  # noqa: ASYNC110 (another process decides)
                await asyncio.sleep(0.05)

    async def resize(self, width: int, height: int, *, dark: bool = False) -> None:
        """The size of the window, in CSS pixels, and the preferred colours."""
        await self.ask(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )
        features = [{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}]
        await self.ask("Emulation.setEmulatedMedia", features=features)

    async def screenshot(self) -> bytes:
        """A PNG of what the window shows."""
        answer = await self.ask("Page.captureScreenshot")
        return base64.b64decode(answer["data"])

    async def _document(self) -> object:
        """When the loaded page began; None while there is none."""
        script = "document.readyState === 'complete' ? performance.timeOrigin : null"
        with suppress(Refused):  # the page is just being exchanged
            return await self.evaluate(script)
        return None

    async def _loaded(self, before: object) -> None:
        async with asyncio.timeout(PATIENCE):
            while await self._document() in (None, before):  # noqa: ASYNC110 (another process)
                await asyncio.sleep(0.02)


def _complaint(event: str, parameters: Mapping[str, Any]) -> str | None:
    if event == "Runtime.exceptionThrown":
        return str(parameters["exceptionDetails"])
    if event == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "warning"):
        return str(parameters["args"])
    if event == "Log.entryAdded" and parameters["entry"]["level"] in ("error", "warning"):
        return str(parameters["entry"])
    return None


@asynccontextmanager
async def browse(chromium: str, profile: Path) -> AsyncIterator[Page]:
    """A browser with a fresh profile and one page; gone at the end."""
    process = _launch(chromium, profile)
    try:
        port = await _port(profile, process)
        async with aiohttp.ClientSession() as http, _attached(http, port) as page:
            yield page
    finally:
        process.terminate()
        try:
            process.wait(PATIENCE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _launch(chromium: str, profile: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [chromium, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )


async def _port(profile: Path, process: subprocess.Popen[bytes]) -> int:
    """The debugging port, which the browser writes down once it listens."""
    file = profile / "DevToolsActivePort"
    async with asyncio.timeout(PATIENCE):
        while process.poll() is None:
            if file.exists() and (words := file.read_text(encoding="ascii").split()):
                return int(words[0])
            await asyncio.sleep(0.05)
    raise AssertionError(f"Chromium ended with {process.returncode} before it could be driven")


@asynccontextmanager
async def _attached(http: aiohttp.ClientSession, port: int) -> AsyncIterator[Page]:
    async with http.get(f"http://127.0.0.1:{port}/json/list") as response:
        targets = await response.json()
    url = next(target["webSocketDebuggerUrl"] for target in targets if target["type"] == "page")
    async with http.ws_connect(url, max_msg_size=0) as socket:
        page = Page(socket)
        listening = asyncio.create_task(page.listen())
        for domain in ("Page", "Runtime", "Log"):
            await page.ask(f"{domain}.enable")
        yield page
        listening.cancel()
        with suppress(asyncio.CancelledError):
            await listening
