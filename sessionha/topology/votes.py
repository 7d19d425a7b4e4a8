"""An elector's votes: single-decree Paxos for the number of the next view (R2), pure.

A vote is kept by its node for good; what is answered here has been written before.
"""

from __future__ import annotations

from typing import Final, Protocol

import msgspec

from sessionha.peer.messages import Ballot
from sessionha.view import NO_MEMBERS, View

NO_BALLOT: Final[Ballot] = (0, "")


class Vote(msgspec.Struct, frozen=True, array_like=True):
    """What one elector has promised and accepted, of one number; lower ones are decided."""

    number: int = 0
    promised: Ballot = NO_BALLOT
    accepted: Ballot = NO_BALLOT
    view: View | None = None
    """The view that it accepted."""
    base: View = NO_MEMBERS
    """The view before, which is decided: all that a node knows that has lost its store."""

    def prepare(self, number: int, ballot: Ballot, base: View) -> Vote:
        """The vote after a promise; unchanged where a higher one was made."""
        known = self._of(number, base)
        if known is None or ballot <= known.promised:
            return self
        return msgspec.structs.replace(known, promised=ballot)

    def accept(self, ballot: Ballot, view: View, base: View) -> Vote:
        """The vote with the view accepted; unchanged where a higher ballot was promised."""
        known = self._of(view.id.number, base)
        if known is None or ballot < known.promised:
            return self
        return Vote(known.number, ballot, ballot, view, known.base)

    def _of(self, number: int, base: View) -> Vote | None:
        """The vote for that number; None where it is decided already."""
        if number < self.number:
            return None
        return self if number == self.number else Vote(number, base=base)


class VoteFile(Protocol):
    """Where a node's vote survives everything but the loss of its disk."""

    def load(self) -> Vote | None:
        """The vote; None: there is none, and what it said is unknown (R7a)."""
        ...

    def save(self, vote: Vote) -> None:
        """Write the vote; when this returns, no crash can take it back.

        Raises:
            StoreError: it could not be written; the one before is kept.
        """
        ...
