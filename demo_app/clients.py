"""The clients of the check: each writes tokens into its session, one request after the other."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import cycle
from typing import IO, Any, Literal

import aiohttp
from multidict import CIMultiDictProxy

from demo_app.accounting import Death, Failovers, Ledger, Report
from demo_app.witness import HEADER

Operation = Literal["post", "keyed", "put", "read"]
Outcome = Literal["ok", "fail", "unknown", "gone", "unavailable"]

SESSION_TOKENS = 100
"""A client takes a new session after so many tokens: answers stay small, and the sessions it
leaves behind, which nobody writes to any more, must outlive every later kill as well."""

ANSWER = 20.0
"""Seconds until no answer is an error."""

PAUSE = 0.05
"""Seconds after an error, so that a broken cluster is not asked as fast as the machine can."""

SHOWN = 20
"""Errors printed; all are counted."""

ENDED = ("max-age=0", "expires=thu, 01 jan 1970")
"""How the attributes of a Set-Cookie begin that deletes a cookie."""

METHODS: Mapping[Operation, str] = {"post": "POST", "keyed": "POST", "put": "PUT", "read": "GET"}


@dataclass
class Jar:
    """One session of a client: its cookies and its books."""

    tag: str
    cookies: dict[str, str] = field(default_factory=dict)
    ledger: Ledger = field(default_factory=Ledger)
    tokens: int = 0
    node: str = ""
    """Who served its last answer."""
    holders: tuple[str, ...] = ()

    def keep(self, headers: CIMultiDictProxy[str]) -> None:
        """Do with the Set-Cookie headers what a browser does."""
        for header in headers.getall("Set-Cookie", ()):
            pair, *attributes = (part.strip() for part in header.split(";"))
            name, _, value = pair.partition("=")
            if any(attribute.lower().startswith(ENDED) for attribute in attributes):
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value

    @property
    def header(self) -> dict[str, str]:
        """The Cookie header, if there is anything to say."""
        pairs = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        return {"Cookie": pairs} if pairs else {}


@dataclass(frozen=True)
class Answer:
    """What came back, and when. Status 0: no answer."""

    invoked: int
    returned: int
    status: int
    state: tuple[str, ...] | None = None
    served: Mapping[str, Any] = field(default_factory=dict)
    why: str = ""
    broken: bool = False
    """It began and broke off: who had passed the beginning on could not take it back."""

    @property
    def ok(self) -> bool:
        return 200 <= self.status < 300


class Books:
    """What all clients write into: the counts, the kills, the history."""

    def __init__(self, history: IO[str] | None = None) -> None:
        self.report = Report()
        self.deaths: list[Death] = []
        self.failovers = Failovers()
        self._history = history
        self._requests = 0

    def settle(
        self, client: str, jar: Jar, operation: Operation, token: str, answer: Answer
    ) -> Outcome:
        """Enter one finished request."""
        outcome = self._judge(operation, answer)
        if answer.ok and answer.state is not None:
            if operation != "read":
                jar.ledger.acknowledge(token)
                self.report.acknowledged += 1
                self.failovers.acknowledged(client, answer.invoked, answer.returned)
            jar.ledger.observe(answer.state)
        self._count(outcome, jar, operation, answer)
        self._write(client, jar, operation, token, answer, outcome)
        return outcome

    def died(self, death: Death) -> None:
        """Enter a kill when it is over."""
        self._line(
            {
                "operation": "kill worker" if death.worker else "kill",
                "node": death.node,
                "invoked": death.at,
                "returned": death.dead,
            }
        )

    def _judge(self, operation: Operation, answer: Answer) -> Outcome:
        if answer.ok:
            return "ok"
        lost = answer.status == 502 or answer.broken
        if lost and operation == "post" and self.explained(answer):
            return "unknown"
        return "unavailable" if answer.status == 503 else "fail"

    def explained(self, answer: Answer) -> bool:
        """Whether its node may have died with it."""
        return any(death.explains(answer.invoked, answer.returned) for death in self.deaths[-2:])

    def _count(self, outcome: Outcome, jar: Jar, operation: Operation, answer: Answer) -> None:
        if outcome == "unknown":
            self.report.unknown += 1
        elif outcome != "ok":
            self.report.errors += 1
            if self.report.errors <= SHOWN:
                asked = f"{METHODS[operation]} in session {jar.tag}"
                print(f"error: {asked}: {answer.status} {answer.why}", file=sys.stderr)

    def _write(
        self,
        client: str,
        jar: Jar,
        operation: Operation,
        token: str,
        answer: Answer,
        outcome: Outcome,
    ) -> None:
        self._requests += 1
        served = answer.served
        self._line(
            {
                "jar": client,
                "request": self._requests,
                "session": jar.tag,
                "operation": operation,
                "token": token,
                "invoked": answer.invoked,
                "returned": answer.returned,
                "outcome": outcome,
                "state": answer.state,
                "position": [served.get("epoch"), served.get("version")],
                "copies": served.get("copies"),
                "node": served.get("node"),
            }
        )

    def _line(self, entry: Mapping[str, object]) -> None:
        if self._history is not None:
            self._history.write(json.dumps(entry, separators=(",", ":")) + "\n")


class Client:
    """Writes without pause until it is told to stop; remembers every session it had."""

    def __init__(self, number: int, http: aiohttp.ClientSession, front: str, books: Books) -> None:
        self.name = f"c{number:02}"
        self.jars = [Jar(f"{self.name}.0")]
        self.acknowledged = 0
        self._http = http
        self._front = front
        self._books = books
        self._operations = _a_third_each(number)

    @property
    def jar(self) -> Jar:
        """The session that it writes to."""
        return self.jars[-1]

    async def run(self, stop: asyncio.Event) -> None:
        """Write until `stop` is set."""
        while not stop.is_set():
            if await self.write(next(self._operations)) not in ("ok", "unknown"):
                await asyncio.sleep(PAUSE)

    async def write(self, operation: Operation) -> Outcome:
        """One new token into the session; a new session when it has enough of them."""
        if self.jar.tokens >= SESSION_TOKENS:
            self.jars.append(Jar(f"{self.name}.{len(self.jars)}"))
        jar = self.jar
        token = f"{jar.tag}-{jar.tokens}"
        jar.tokens += 1
        jar.ledger.send(token)
        headers = {"Idempotency-Key": token} if operation == "keyed" else {}
        outcome = await self._ask(self._front, jar, operation, token, headers)
        self.acknowledged += outcome == "ok"
        return outcome

    async def read(self, jar: Jar, server: str) -> Outcome:
        """What a server says that the session has."""
        return await self._ask(server, jar, "read", "", {})

    async def _ask(
        self, server: str, jar: Jar, operation: Operation, token: str, headers: Mapping[str, str]
    ) -> Outcome:
        url = f"{server}/api/tokens/{token}" if token else f"{server}/api/tokens"
        answer = await self._exchange(METHODS[operation], url, jar, headers)
        if answer.broken and operation != "post" and self._books.explained(answer):
            self._books.report.broken += 1
            again = await self._exchange(METHODS[operation], url, jar, headers)
            answer = replace(again, invoked=answer.invoked)
        if answer.ok:
            jar.node = str(answer.served.get("node", ""))
            jar.holders = tuple(answer.served.get("holders", ()))
        return self._books.settle(self.name, jar, operation, token, answer)

    async def _exchange(
        self, method: str, url: str, jar: Jar, headers: Mapping[str, str]
    ) -> Answer:
        invoked = time.monotonic_ns()
        try:
            async with self._http.request(
                method, url, headers={**headers, **jar.header}
            ) as response:
                body = await response.read()
                returned = time.monotonic_ns()
                jar.keep(response.headers)
                return _answer(invoked, returned, response, body)
        except (aiohttp.ClientError, TimeoutError) as error:
            why = f"{type(error).__name__}: {error}"
            broken = isinstance(error, aiohttp.ClientPayloadError)
            return Answer(invoked, time.monotonic_ns(), 0, why=why, broken=broken)


def _answer(invoked: int, returned: int, response: aiohttp.ClientResponse, body: bytes) -> Answer:
    if not 200 <= response.status < 300:
        why = body[:200].decode(errors="replace").strip()
        return Answer(invoked, returned, response.status, why=why)
    served = json.loads(response.headers.get(HEADER, "{}"))
    state = tuple(json.loads(body)["tokens"])
    return Answer(invoked, returned, response.status, state, served)


def _a_third_each(number: int) -> Iterator[Operation]:
    """The three kinds of writes in turn; clients begin with different ones."""
    kinds: Sequence[Operation] = ("post", "keyed", "put")
    first = number % len(kinds)
    return cycle((*kinds[first:], *kinds[:first]))


def connect() -> aiohttp.ClientSession:
    """The connections of all clients; their cookies are their own."""
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(limit=0),
        timeout=aiohttp.ClientTimeout(total=ANSWER),
        cookie_jar=aiohttp.DummyCookieJar(),
    )
