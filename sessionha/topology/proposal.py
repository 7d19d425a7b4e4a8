"""One attempt to have a view decided: Paxos as its proposer sees it (R2), pure."""

from __future__ import annotations

from typing import Literal

from sessionha.peer.messages import Accept, Accepted, Ballot, Message, Prepare, Prepared
from sessionha.topology.votes import NO_BALLOT
from sessionha.view import View

Outcome = Literal["open", "decided", "beaten", "late"]
"""beaten: a higher ballot was promised. late: a view of this number or a higher one is decided."""


class Proposal:
    """For the view after `base`, with a value that gives way to one that was accepted before."""

    def __init__(self, base: View, value: View, ballot: Ballot, now: int) -> None:
        self.base = base
        self.value = value
        self.ballot = ballot
        self.begun = now
        self.asked_at = now
        self.outcome: Outcome = "open"
        self.highest = ballot[0]
        """The highest round that an answer told of."""
        self.waits = False
        """Whether an elector waits for the end of a lease, or for proof that it ended."""
        self.adopted = False
        """Whether the value is another's."""
        self._prepared: dict[str, Prepared] = {}
        self._accepted: set[str] = set()
        self._settled = False

    @property
    def number(self) -> int:
        """Of the view to decide."""
        return self.base.id.number + 1

    def questions(self) -> list[tuple[str, Message]]:
        """What to ask of whom: everybody who has not answered in this phase."""
        if self.outcome != "open":
            return []
        done = self._accepted if self._settled else set(self._prepared)
        left = [node for node in self.base.voters if node not in done]
        if not self._settled:
            return [(node, Prepare(self.number, self.ballot, self.base)) for node in left]
        accept = Accept(self.ballot, self.value, self._tokens)
        return [(node, accept) for node in left]

    def answered(self, node: str, request: Prepare | Accept, reply: Prepared | Accepted) -> bool:
        """Take an answer; whether the phase ended by it: then there are other questions."""
        if request.ballot != self.ballot or self.outcome != "open":
            return False
        if node not in self.base.voters:
            return False
        self.highest = max(self.highest, reply.promised[0])
        if reply.held >= self.number:
            self.outcome = "late"
        elif reply.promised > self.ballot:
            self.outcome = "beaten"
        elif isinstance(reply, Accepted):
            return self._take_acceptance(node, reply)
        elif reply.promised == self.ballot and not self._settled:
            return self._take_promise(node, reply)
        return False

    def _take_promise(self, node: str, reply: Prepared) -> bool:
        self._prepared[node] = reply
        voting = sum(1 for answer in self._prepared.values() if not answer.blank)
        if voting < self.base.majority and len(self._prepared) < len(self.base.voters):
            return False
        self._settled = True
        best = max(self._prepared.values(), key=lambda answer: answer.accepted)
        if best.accepted > NO_BALLOT and best.view is not None:
            self.adopted = best.view != self.value
            self.value = best.view
        return True

    def _take_acceptance(self, node: str, reply: Accepted) -> bool:
        self.waits = self.waits or not reply.ok
        if reply.ok:
            self._accepted.add(node)
        if len(self._accepted) < self.base.majority:
            return False
        self.outcome = "decided"
        return True

    @property
    def _tokens(self) -> tuple[tuple[str, str], ...]:
        """Electors without votes count only where all were asked (R7a)."""
        if len(self._prepared) < len(self.base.voters):
            return ()
        found = {node: answer.blank for node, answer in self._prepared.items()}
        return tuple((node, token) for node, token in sorted(found.items()) if token)
