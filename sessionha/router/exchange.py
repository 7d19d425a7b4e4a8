"""One HTTP request on its way through the router: attempts, the relayed answer, the end."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from enum import Enum, auto
from typing import Any, Final

from sessionha.router.affinity import may_repeat
from sessionha.router.answers import Answer, Broken
from sessionha.router.body import Body, ClientGone
from sessionha.router.budget import Budget
from sessionha.router.connections import Connections, NotAccepted
from sessionha.router.counts import Counts
from sessionha.router.headers import Request, returned
from sessionha.router.options import Options
from sessionha.router.upstreams import Entry, Upstream, Upstreams
from sessionha.session.headers import ELSEWHERE, IF_REPEATABLE, RETRY

logger = logging.getLogger("sessionha.router")

Send = Callable[[dict[str, Any]], Awaitable[None]]
Candidates = Callable[[], Iterator[Upstream]]

RETRY_AFTER: Final = b"1"
"""Seconds: detection and a new view take about as long."""

WATCH_AFTER: Final = 0.1
"""Seconds until a request is worth a task that notices when its client leaves."""

BROKEN_LIMIT: Final = 4
"""A request that kills every server it is sent to must not visit them all."""

ROUND_PAUSE: Final = 0.05
"""Seconds to wait for another view when every server passed a request on, at first."""

LONGEST_PAUSE: Final = 0.25
"""Seconds that it becomes: each round is work for every server, mostly in the worst moment."""


_ELSEWHERE: Final = frozenset(
    {(RETRY.encode(), ELSEWHERE.encode()), (RETRY.encode(), IF_REPEATABLE.encode())}
)


class Outcome(Enum):
    """How an attempt ended."""

    ANSWERED = auto()
    """The client got an answer, or what there was of it."""
    NOT_ACCEPTED = auto()
    BROKEN = auto()
    """The connection ended without an answer, or the view excluded its node."""
    ELSEWHERE = auto()
    """The node passed the request on."""
    FULL = auto()
    """There was no room at the node in time."""
    SILENT = auto()
    """No answer within the response timeout."""
    CLIENT_GONE = auto()


_FINAL: Final = frozenset({Outcome.ANSWERED, Outcome.SILENT, Outcome.CLIENT_GONE, Outcome.FULL})
"""No other server is asked after these. The client's own is full, not dead: another would have to
take its sessions over first."""


_STATUS: Final = {Outcome.BROKEN: 502, Outcome.SILENT: 504}
"""Of the router's own answer; else 503."""


class HttpExchange:
    """Passes one request to the first upstream that answers it (R14)."""

    def __init__(
        self,
        method: str,
        request: Request,
        body: Body,
        send: Send,
        *,
        idempotent: bool,
        upstreams: Upstreams,
        connections: Connections,
        options: Options,
        budget: Budget,
        counts: Counts,
        wanted: str,
    ) -> None:
        """`wanted`: what there is none of when the request has no candidates."""
        self._method = method
        self._request = request
        self._body = body
        self._send = send
        self._idempotent = idempotent
        self._upstreams = upstreams
        self._connections = connections
        self._options = options
        self._budget = budget
        self._counts = counts
        self._wanted = wanted
        self.status = 0
        """Of the answer; 0: the client left before."""
        self.server = ""
        """Who gave it; empty: the router itself."""
        self.sent_bytes = 0
        """Of the answer's body."""
        self.attempts = 0
        self._clock: asyncio.Timeout | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._watcher: asyncio.Task[None] | None = None
        self._started = False
        self._lost = False
        self._accepted = False
        self._give_up = 0.0
        self._broken = 0
        body.progress = self._wind

    async def run(self, candidates: Candidates) -> None:
        """Serve the request: always with exactly one answer, unless the client left."""
        self._budget.earn()
        self._watch_later()
        try:
            outcome = await self._rounds(candidates)
        finally:
            if self._timer is not None:
                self._timer.cancel()
            if self._watcher is not None:
                self._watcher.cancel()
        if not self._started:
            await self._refuse(outcome)

    async def _rounds(self, candidates: Candidates) -> Outcome | None:
        outcome, pause = None, ROUND_PAUSE
        while True:
            passed_on = False
            for upstream in candidates():
                if outcome is Outcome.BROKEN and not self._pays("broken"):
                    return outcome
                outcome = await self._visit(upstream)
                if not self._continues(outcome):
                    return outcome
                passed_on = passed_on or outcome is Outcome.ELSEWHERE
            if not passed_on or not self._pays("passed_on"):
                return outcome
            await self._upstreams.changed(pause)
            pause = min(2 * pause, LONGEST_PAUSE)

    def _continues(self, outcome: Outcome) -> bool:
        if outcome in _FINAL or self._started:
            return False
        return self._broken < BROKEN_LIMIT and may_repeat(
            accepted=outcome is not Outcome.NOT_ACCEPTED,
            idempotent=self._idempotent,
            replayable=self._body.replayable,
        )

    async def _visit(self, upstream: Upstream) -> Outcome:
        """Try one upstream; again on a fresh connection when a kept one broke.

        A kept connection may have been closed by a healthy server that tired of it.
        """
        outcome = await self._attempt(upstream, kept=self._idempotent)
        if outcome is not Outcome.BROKEN or self._lost or not self._continues(outcome):
            return outcome
        return await self._attempt(upstream, kept=False) if self._pays("stale") else outcome

    def _pays(self, why: str) -> bool:
        """Whether the request may be sent once more."""
        if not self._budget.spend(asyncio.get_running_loop().time()):
            self._counts.denied += 1
            return False
        self._counts.repeats[why] += 1
        return True

    async def _attempt(self, upstream: Upstream, *, kept: bool) -> Outcome:
        options = self._options
        entry = await upstream.enter(
            options.server_requests, options.queue_requests, options.queue_timeout
        )
        if entry != "entered":
            return self._turned_away(entry)
        try:
            return await self._inside(upstream, kept=kept)
        finally:
            upstream.leave()

    def _turned_away(self, entry: Entry) -> Outcome:
        if self._body.gone:
            return Outcome.CLIENT_GONE
        if entry == "gone":
            return Outcome.NOT_ACCEPTED
        self._counts.full += 1
        return Outcome.FULL

    async def _inside(self, upstream: Upstream, *, kept: bool) -> Outcome:
        self._lost = self._accepted = False
        self.attempts += 1
        upstream.exchanges.add(self)
        try:
            async with asyncio.timeout(self._options.response_timeout) as self._clock:
                return await self._ask(upstream, kept=kept)
        except NotAccepted:
            self._upstreams.refused(upstream)
            return Outcome.NOT_ACCEPTED
        except ClientGone:
            return Outcome.CLIENT_GONE
        except TimeoutError:
            return self._timed_out()
        except Broken:
            return self._broke(upstream)
        finally:
            self._clock = None
            upstream.exchanges.discard(self)

    async def _ask(self, upstream: Upstream, *, kept: bool) -> Outcome:
        answer = await self._connections.request(
            self._method,
            upstream.target.url,
            self._request.target,
            self._request.headers,
            await self._body.open(),
            kept=kept,
            connected=self._connected,
        )
        try:
            self._upstreams.answered(upstream)
            if answer.status == 503 and self._passed_on(answer):
                return Outcome.ELSEWHERE
            self.server = upstream.target.name
            await self._relay(answer)
        finally:
            answer.close()
        return Outcome.ANSWERED

    def _passed_on(self, answer: Answer) -> bool:
        if not _ELSEWHERE.intersection(answer.headers):
            return False
        now = asyncio.get_running_loop().time()
        self._give_up = self._give_up or now + self._options.elsewhere_timeout
        return now < self._give_up and self._continues(Outcome.ELSEWHERE)

    async def _relay(self, answer: Answer) -> None:
        """Pass the answer on, piece by piece; a short one is here."""
        self._started = True
        self.status = answer.status
        if self._clock is not None:
            self._clock.reschedule(None)
        headers = returned(answer.headers)
        if answer.status in (204, 304):  # some tell the length of what they do not send
            headers = [item for item in headers if item[0] != b"content-length"]
        start = {"type": "http.response.start", "status": answer.status, "headers": headers}
        await self._send(start)
        more = True
        while more:
            piece = await answer.piece()
            more = not answer.complete
            self.sent_bytes += len(piece)
            await self._send({"type": "http.response.body", "body": piece, "more_body": more})

    def _connected(self) -> None:
        self._accepted = True

    def _timed_out(self) -> Outcome:
        if self._body.gone:
            return Outcome.CLIENT_GONE
        if not self._lost:
            return Outcome.SILENT
        if not self._accepted:
            return Outcome.NOT_ACCEPTED
        self._broken += 1
        return Outcome.BROKEN

    def _broke(self, upstream: Upstream) -> Outcome:
        if self._body.gone:  # that was why
            return Outcome.CLIENT_GONE
        self._upstreams.broke(upstream)
        self._broken += 1
        return Outcome.BROKEN

    # --- what ends an attempt from outside -------------------------------------------------------

    def node_lost(self) -> None:
        """End the attempt: no answer of an excluded node is waited for. Whether an unsafe request
        was executed stays unknown; it is answered with 502 and never repeated (R14)."""
        self._lost = True
        self._end()

    def _end(self) -> None:
        if self._clock is not None and not self._clock.expired():
            self._clock.reschedule(asyncio.get_running_loop().time())

    def _wind(self) -> None:
        """A piece of the body moved: the response may take its time from now."""
        if self._clock is not None and not self._started and not self._clock.expired():
            now = asyncio.get_running_loop().time()
            self._clock.reschedule(now + self._options.response_timeout)

    def _watch_later(self) -> None:
        self._timer = asyncio.get_running_loop().call_later(WATCH_AFTER, self._watch)

    def _watch(self) -> None:
        if self._body.complete:
            self._watcher = asyncio.create_task(self._watch_client())
        else:  # who reads the body notices; look again when it is read
            self._watch_later()

    async def _watch_client(self) -> None:
        if await self._body.disconnected():
            self._end()

    # --- answers of the router's own -------------------------------------------------------------

    async def _refuse(self, outcome: Outcome | None) -> None:
        if outcome is Outcome.CLIENT_GONE:
            return
        self.status = 503 if outcome is None else _STATUS.get(outcome, 503)
        if outcome is Outcome.BROKEN:
            await answer(self._send, 502, "The server failed while it served this request.")
        elif outcome is Outcome.SILENT:
            await answer(self._send, 504, "The server did not answer in time.")
        elif outcome is Outcome.FULL:
            await unavailable(self._send, "the server has too many requests")
        elif outcome is None:
            await unavailable(self._send, f"no {self._wanted} is known")
        else:
            await unavailable(self._send, f"no {self._wanted} can be reached")


async def answer(send: Send, status: int, text: str, *headers: tuple[bytes, bytes]) -> None:
    """A short answer in plain text; it tells nothing of the inside."""
    body = f"{text}\n".encode()
    await send(
        {
            "type": "http.response.start",
            "status": status,
            "headers": [
                (b"content-type", b"text/plain; charset=utf-8"),
                (b"content-length", str(len(body)).encode()),
                (b"cache-control", b"no-store"),
                *headers,
            ],
        }
    )
    await send({"type": "http.response.body", "body": body})


async def unavailable(send: Send, reason: str) -> None:
    """503 with the reason; nothing was executed."""
    await answer(send, 503, f"Unavailable: {reason}.", (b"retry-after", RETRY_AFTER))
