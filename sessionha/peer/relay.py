"""One hop around a broken link: calls through a member that reaches both ends (contract, R1).

The streams to and from the member are authenticated like any other. That it names the sender truly
is taken on trust, as with the secret that all members have each could introduce itself as another.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

from sessionha.errors import BadMessage, PeerUnavailable, SessionHAError
from sessionha.peer.base import Handler, Links, Sender, Way
from sessionha.peer.messages import Failed, Message, Relay, Relayed, decode, encode

NO_MEMBER = "the two ends are no members of one view"

Call = Callable[[str, Message, float], Coroutine[Any, Any, Message]]
"""A call that takes no detour: node, message, seconds."""


async def call_by(way: Way, call: Call, node: str, message: Message, timeout: float) -> Message:
    """The reply of `node`, by one hop. Raises PeerUnavailable; never with a refusal, which only
    proves something where it is met."""
    asked = Relay(node, way.incarnation, encode(message), max(round(timeout * 1000), 1))
    try:
        reply = await call(way.via, asked, timeout)
    except PeerUnavailable as error:
        why = f"cannot be reached through {error}"
        raise PeerUnavailable(node, why, sent=error.sent) from None
    if not isinstance(reply, Relayed):
        why = reply.reason if isinstance(reply, Failed) else type(reply).__name__
        raise PeerUnavailable(node, f"{way.via} passes nothing on: {why}")
    if reply.data is None:
        raise PeerUnavailable(node, f"through {way.via}: {reply.why}", sent=reply.sent)
    try:
        return decode(reply.data)
    except BadMessage as error:
        raise PeerUnavailable(node, "a reply that cannot be decoded") from error


def wrapped(way: Way, node: str, message: Message) -> Relay:
    """The message of a cast by one hop."""
    return Relay(node, way.incarnation, encode(message), 0)


class Relays:
    """Passes messages on between two members, and takes those that were passed on to this one.

    Who is in between need be no member: where two members are left that only a returning node
    reaches, nobody could admit it otherwise.
    """

    def __init__(
        self,
        me: Callable[[], Sender],
        is_member: Callable[[str, str], bool],
        links: Links,
        handler: Handler,
    ) -> None:
        """`is_member`: whether this node's view has that node in that incarnation. `handler`: of
        what is for this node."""
        self._me = me
        self._is_member = is_member
        self._links = links
        self._handler = handler

    async def handle(self, sender: Sender, asked: Relay) -> Message | None:
        """Pass the message on, or do what it says. Raises BadMessage for a hop in a hop."""
        origin = sender if asked.origin is None else Sender(*asked.origin)
        ends = (origin, Sender(asked.node, asked.incarnation))
        if not all(self._is_member(*end) for end in ends):
            return Relayed(None, NO_MEMBER, sent=False)
        if asked.origin is not None:
            return await self._take(origin, asked)
        return await self._pass_on(sender, asked)

    async def _pass_on(self, sender: Sender, asked: Relay) -> Message | None:
        node = asked.node
        origin = (sender.node, sender.incarnation)
        passed = Relay(node, asked.incarnation, asked.data, asked.timeout, origin)
        if not asked.timeout:
            self._links.cast(node, passed, straight=True)
            return None
        try:
            reply = await self._links.call(node, passed, asked.timeout / 1000, straight=True)
        except PeerUnavailable as error:
            return Relayed(None, str(error), sent=error.sent)
        return reply if isinstance(reply, Relayed) else Relayed(None, f"it answered {reply}")

    async def _take(self, origin: Sender, asked: Relay) -> Message | None:
        if Sender(asked.node, asked.incarnation) != self._me():
            return Relayed(None, "it was for another incarnation", sent=False)
        message = decode(asked.data)
        if isinstance(message, Relay):
            raise BadMessage("a message in a hop that would take another one")
        try:
            result = self._handler(origin, message)
            answer = await result if isinstance(result, Awaitable) else result
        except SessionHAError as error:
            answer = Failed(type(error).__name__, str(error))
        if not asked.timeout or answer is None:
            return None
        return Relayed(encode(answer))
