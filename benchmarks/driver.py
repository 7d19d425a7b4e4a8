"""A process that calls the application of one variant directly, without sockets or parsing.

Reads orders as JSON lines (`route`, `requests`, `sessions`, and `profile`: a file to write) and
answers each with one JSON line: microseconds per request, of the clock and of this process's CPU.
"""

from __future__ import annotations

import asyncio
import cProfile
import gc
import json
import sys
import time
from collections.abc import MutableMapping
from contextlib import nullcontext
from typing import Any

import uvloop
from starlette.types import ASGIApp, Message

from benchmarks import application

_HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"user-agent", b"benchmark/1"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate, br"),
]
"""What a client sends besides its cookies; cookie parsers walk past it."""


class Browser:
    """One client: a cookie jar, and a request at a time."""

    def __init__(self, app: ASGIApp, state: MutableMapping[str, Any]) -> None:
        self._app = app
        self._state = state
        self._jar: dict[bytes, bytes] = {}
        self._headers = list(_HEADERS)
        self._body = b""
        self._status = 0

    async def ask(self, method: str, path: str) -> None:
        """One request; RuntimeError unless the answer is 200."""
        scope = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": b"",
            "headers": self._headers,
            "client": ("127.0.0.1", 50000),
            "server": ("127.0.0.1", 8000),
            "state": self._state.copy(),  # type: ignore[attr-defined]
        }
        await self._app(scope, _receive, self._send)
        if self._status != 200:
            raise RuntimeError(f"{method} {path}: {self._status} {self._body[:200]!r}")

    async def counter(self) -> int:
        """The counter as the application reads it now."""
        await self.ask("GET", "/read")
        return int(json.loads(self._body)["counter"])

    async def _send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self._status = message["status"]
            for name, value in message["headers"]:
                if name == b"set-cookie":
                    self._keep(value)
        else:
            self._body = message["body"]

    def _keep(self, given: bytes) -> None:
        name, _, value = given.partition(b";")[0].partition(b"=")
        if self._jar.get(name) != value:
            self._jar[name] = value
            cookies = b"; ".join(name + b"=" + value for name, value in self._jar.items())
            self._headers = [*_HEADERS, (b"cookie", cookies)]


async def _receive() -> Message:
    return {"type": "http.request", "body": b"", "more_body": False}


class Lifespan:
    """Starts the application as a server does, and stops it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app
        self._orders: asyncio.Queue[Message] = asyncio.Queue()
        self._answers: asyncio.Queue[Message] = asyncio.Queue()
        self._state: dict[str, Any] = {}

    async def __aenter__(self) -> dict[str, Any]:
        scope = {"type": "lifespan", "asgi": {"version": "3.0"}, "state": self._state}
        self._task = asyncio.ensure_future(self._run(scope))
        await self._step("startup")
        return self._state

    async def __aexit__(self, *_: object) -> None:
        await self._step("shutdown")
        await self._task

    async def _run(self, scope: dict[str, Any]) -> None:
        await self._app(scope, self._orders.get, self._answers.put)

    async def _step(self, word: str) -> None:
        self._orders.put_nowait({"type": f"lifespan.{word}"})
        answer = await self._answers.get()
        if answer["type"] != f"lifespan.{word}.complete":
            raise RuntimeError(f"{word} failed: {answer.get('message', answer['type'])}")


async def _repeat(browser: Browser, method: str, path: str, times: int) -> None:
    for _ in range(times):
        await browser.ask(method, path)


async def _carry_out(
    order: dict[str, Any], app: ASGIApp, state: MutableMapping[str, Any], variant: str
) -> dict[str, Any]:
    """One run on fresh sessions, each used by one task; then the check of what they hold."""
    route, sessions = order["route"], order["sessions"]
    times = order["requests"] // sessions
    browsers = [Browser(app, state) for _ in range(sessions)]
    for browser in browsers:
        await browser.ask("POST", "/login")
    method, path = ("GET", "/read") if route == "read" else ("POST", "/write")
    gc.collect()
    with cProfile.Profile() if order.get("profile") else nullcontext() as profile:
        clock, cpu = time.perf_counter(), time.process_time()
        await asyncio.gather(*(_repeat(browser, method, path, times) for browser in browsers))
        clock, cpu = time.perf_counter() - clock, time.process_time() - cpu
    if profile is not None:
        profile.dump_stats(order["profile"])
    wrote = times if route == "write" else 0
    shared = wrote * sessions if variant == application.BARE else wrote
    counters = [await browser.counter() for browser in browsers]
    done = times * sessions
    return {
        "clock_us": clock / done * 1e6,
        "cpu_us": cpu / done * 1e6,
        "wrong": sum(counter != shared for counter in counters),
    }


async def main(variant: str) -> None:
    """Carry out orders from standard input until it ends."""
    loop = asyncio.get_running_loop()
    reader = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    app = application.build(variant)
    async with Lifespan(app) as state:
        while line := await reader.readline():
            answer = await _carry_out(json.loads(line), app, state, variant)
            print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    uvloop.run(main(sys.argv[1]))
