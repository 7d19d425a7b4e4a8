"""The way to one other node: its stream, made again whenever it breaks, and the calls on it."""

from __future__ import annotations

import asyncio
import logging
import random
from typing import Literal

from sessionha.errors import BadMessage, PeerUnavailable
from sessionha.peer.auth import Party
from sessionha.peer.base import LinkListener
from sessionha.peer.channel import Common, Dialled, Entry, Kind, Outbox
from sessionha.peer.messages import Message, decode
from sessionha.peer.transport import dial

_log = logging.getLogger("sessionha.peer")

REFUSALS = 2
"""Refused dials in a row that prove it: an engine that ends resets the connections in its own
queue, while its siblings at the same address live."""

_Call = tuple[asyncio.Future[Message], float, float]
"""The reply to come, the loop time at which it is not waited for any more, the timeout."""

_CAST, _REQUEST = int(Kind.CAST), int(Kind.REQUEST)


async def knock(common: Common, channel: Dialled, address: str, timeout: float) -> Party:
    """One attempt to connect to `host:port` and to shake hands, within `timeout` seconds.

    Raises:
        ConnectionRefusedError: nobody listens there.
        OSError: anything else.
    """
    try:
        async with asyncio.timeout(timeout):
            await dial(address, channel, frame_bytes=common.limits.wire_bytes, tls=common.tls)
            return await asyncio.shield(channel.ready)
    except BaseException:
        channel.abort()
        raise


class Link:
    """What waits to be sent to a node, what awaits its replies, and the stream, if there is one."""

    def __init__(
        self,
        node: str,
        address: str,
        common: Common,
        listener: LinkListener | None,
        chance: random.Random,
    ) -> None:
        self.node = node
        self.address = address
        self.channel: Dialled | None = None
        """The stream, open or still shaking hands."""
        self._common = common
        self._listener = listener
        self._chance = chance
        self._outbox = Outbox()
        self._pending: dict[int, _Call] = {}
        self._timer: asyncio.TimerHandle | None = None
        """Fires when the first of the pending calls is over; one timer for all of them."""
        self._expires = float("inf")
        self._number = 0
        self._sent = 0
        """The last request that was handed to a stream; they are sent in order."""
        self._kept = False
        self._told: Literal["up", "refused", "silent"] | None = None
        self._wake = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._delay = 0.0
        self._brief = False
        """Whether the last stream hardly lived: the next one is not made at once."""
        self._failed_at = float("-inf")

    @property
    def up(self) -> bool:
        """Whether the stream is open and its peer proven."""
        return self.channel is not None and self.channel.peer is not None

    async def call(self, data: bytes, timeout: float) -> Message:
        """The reply to an encoded request. Raises PeerUnavailable."""
        limits = self._common.limits
        if len(data) > limits.frame_bytes:
            raise self._refusal(f"a message of {len(data)} bytes; {limits.frame_bytes} are allowed")
        if self._is_full(data) or len(self._pending) >= limits.calls:
            raise self._refusal("too much waits to be sent to it")
        loop = asyncio.get_running_loop()
        self._number = number = self._number + 1
        future: asyncio.Future[Message] = loop.create_future()
        deadline = loop.time() + timeout
        self._pending[number] = future, deadline, timeout
        self._outbox.add((number, _REQUEST, data))
        if self.up:
            assert self.channel is not None
            self.channel.schedule()
        else:
            self._dial_soon()
        if deadline < self._expires:
            self._expire_at(deadline)
        try:
            return await future
        finally:
            del self._pending[number]

    def cast(self, data: bytes) -> bool:
        """Send without awaiting a reply, if there is an open stream with room; without a stream
        one is dialled, for the next."""
        if not self.up:
            self._dial_soon()
            return False
        if self._is_full(data) or len(data) > self._common.limits.frame_bytes:
            return False
        assert self.channel is not None
        self._outbox.add((0, _CAST, data))
        self.channel.schedule()
        return True

    def hold(self, kept: bool) -> None:
        """Whether to keep the stream, without being asked to send anything."""
        self._kept = kept
        if kept:
            self._dial_soon()

    def drop(self) -> None:
        """Close the stream; it is made again at once."""
        if self.channel is not None:
            self.channel.close()

    def close(self, why: str) -> asyncio.Task[None] | None:
        """Close for good and fail what waits; the task that still ends, if any."""
        self._fail(why, refused=False)
        if self._timer is not None:
            self._timer.cancel()
        self.drop()
        if self._task is not None:
            self._task.cancel()
        return self._task

    def _refusal(self, why: str) -> PeerUnavailable:
        self._common.counters.refused_calls += 1
        return PeerUnavailable(self.node, why, sent=False)

    def _is_full(self, data: bytes) -> bool:
        return self._outbox.size + len(data) > self._common.limits.queue_bytes

    def _dial_soon(self) -> None:
        self._wake.set()
        if self._task is None:
            self._task = asyncio.get_running_loop().create_task(self._run())

    async def _run(self) -> None:
        """Make the stream, and make it again, until it fails and nobody wants it."""
        try:
            while await self._once():
                pass
        except Exception:  # noqa: BLE001
            _log.exception("the link to %s failed", self.node)
            self._fail("an internal error", refused=False)
        finally:
            self._task = None

    async def _once(self) -> bool:
        """Make the stream and see it end; whether to do it again."""
        await self._wait_turn()
        loop = asyncio.get_running_loop()
        result = await self._round()
        if isinstance(result, str):
            self._slow_down(loop.time())
            self._fail(result, refused=result == "refused")
            self._tell(result)
            return self._kept
        began = loop.time()
        self._tell("up", result.incarnation)
        try:
            if self.channel is not None:
                await asyncio.shield(self.channel.ended)
        finally:
            self.channel = None
            self._lost()
        brief = loop.time() - began < self._common.limits.retry_last
        if brief and self._brief:
            self._slow_down(loop.time())
        elif not brief:
            self._delay = 0.0
        self._brief = brief
        self._common.counters.reconnects += 1
        return True

    async def _round(self) -> Party | Literal["refused", "silent"]:
        """A few attempts: two refusals prove a death; the answer of any engine is enough."""
        limits = self._common.limits
        refusals = 0
        for _ in range(limits.attempts):
            self.channel = channel = Dialled(
                self._common, self._outbox, self.node, replied=self._replied, taken=self._taken
            )
            try:
                return await knock(self._common, channel, self.address, limits.handshake)
            except ConnectionRefusedError:
                refusals += 1
                if refusals == REFUSALS:
                    return "refused"
            except OSError as error:
                refusals = 0
                why = "no answer" if isinstance(error, TimeoutError) else error
                self._common.warnings.say(
                    "dial", "cannot make a stream to %s at %s: %s", self.node, self.address, why
                )
                if why is error:
                    await asyncio.sleep(limits.retry_first)
            finally:
                if not channel.connected:
                    self.channel = None
        return "silent"

    async def _wait_turn(self) -> None:
        """Between attempts: at once after a long life, else some time; a call shortens it."""
        limits = self._common.limits
        now = asyncio.get_running_loop().time()
        wait = self._failed_at + self._delay * self._chance.uniform(0.5, 1.0) - now
        shortest = min(wait, self._failed_at + limits.retry_first - now)
        if shortest > 0:
            await asyncio.sleep(shortest)
            wait -= shortest
        if wait <= 0 or self._pending:
            return
        self._wake.clear()
        try:
            async with asyncio.timeout(wait):
                await self._wake.wait()
        except TimeoutError:
            return

    def _slow_down(self, now: float) -> None:
        limits = self._common.limits
        self._failed_at = now
        self._delay = min(max(2 * self._delay, limits.retry_first), limits.retry_last)

    def _tell(self, state: Literal["up", "refused", "silent"], incarnation: str = "") -> None:
        """Tell the listener what is new."""
        before, self._told = self._told, state
        if self._listener is None:
            return
        if state == "up":
            self._listener.link_up(self.node, incarnation)
        elif state != before:
            self._listener.link_down(self.node, refused=state == "refused")

    def _taken(self, entries: list[Entry]) -> list[Entry]:
        """Those whose callers still wait; they count as sent from now on."""
        pending = self._pending
        wanted = [entry for entry in entries if entry[1] == _CAST or entry[0] in pending]
        for number, _, _ in reversed(wanted):
            if number:
                self._sent = number
                break
        return wanted

    def _replied(self, number: int, data: bytes) -> None:
        call = self._pending.get(number)
        if call is None or call[0].done():
            return  # too late: its caller gave up
        future = call[0]
        try:
            future.set_result(decode(data))
        except BadMessage as error:
            self._common.counters.bad_messages += 1
            self._common.warnings.say("bad message", "a reply of %s: %s", self.node, error)
            future.set_exception(PeerUnavailable(self.node, "a reply that cannot be decoded"))

    def _expire_at(self, deadline: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._expires = deadline
        self._timer = asyncio.get_running_loop().call_at(deadline, self._expire)

    def _expire(self) -> None:
        """Fail the calls that got no answer in time."""
        self._timer, self._expires = None, float("inf")
        now = asyncio.get_running_loop().time()
        over = [number for number, call in self._pending.items() if call[1] <= now]
        for number in over:
            self._fail_silent(number)
        waiting = [deadline for _, deadline, _ in self._pending.values() if deadline > now]
        if waiting:
            self._expire_at(min(waiting))

    def _fail_silent(self, number: int) -> None:
        future, _, timeout = self._pending[number]
        if future.done():
            return
        sent = number <= self._sent
        why = f"no answer within {timeout:g} s"
        future.set_exception(PeerUnavailable(self.node, why, sent=sent))
        silence = self._common.limits.silence
        if sent and self.channel is not None and self.channel.silent_for() >= silence:
            # Perhaps a stopped engine of a living node: the next dial may reach another
            self.channel.abort()

    def _lost(self) -> None:
        """The stream ended: what was sent on it may have arrived, the rest waits for the next."""
        for number, (future, _, _) in self._pending.items():
            if number <= self._sent and not future.done():
                future.set_exception(PeerUnavailable(self.node, "its stream closed", sent=True))
        dropped = self._outbox.keep_if(lambda entry: entry[1] == _REQUEST)
        self._common.counters.dropped_casts += dropped

    def _fail(self, why: str, *, refused: bool) -> None:
        """Nothing that waits can be sent."""
        for number, (future, _, _) in self._pending.items():
            if not future.done():
                sent = number <= self._sent
                future.set_exception(PeerUnavailable(self.node, why, refused=refused, sent=sent))
        self._outbox.keep_if(lambda _: False)
