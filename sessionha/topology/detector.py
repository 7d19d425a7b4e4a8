"""The failure detector: from answers and silences to suspicions, and from those to verdicts.

Pure: times are passed in, messages to send are returned. It judges members only; what a verdict
leads to is the automaton's matter.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from sessionha.identity import NO_VIEW, ViewID
from sessionha.peer.base import Verdict
from sessionha.peer.messages import Confirm
from sessionha.topology.effects import Send
from sessionha.topology.timing import Timing
from sessionha.view import Member, View

NEVER = -(1 << 62)
CONFIRMERS = 2
"""Asked at a time: one may be dead too."""
RESPITE = 4
"""A member that was cleared by another is not suspected again for so many `suspect_after`."""


@dataclass(slots=True)
class Suspicion:
    """Why a member is not trusted now, and what the others say of it."""

    since: int
    asked: dict[str, Verdict | None] = field(default_factory=dict)


@dataclass(slots=True)
class Known:
    """What is known of one other node."""

    since: int
    """Silence counts from here when it is later than the last answer."""
    heard: int = NEVER
    """When it last answered a call of ours; what it sends by itself proves no way there."""
    asked: int = NEVER
    refused: bool = False
    member: Member | None = None
    """How it described itself in its last answer."""
    state: str = ""
    view_id: ViewID = NO_VIEW
    view: View | None = None
    suspicion: Suspicion | None = None
    trusted_until: int = NEVER
    granted: int = NEVER
    """When it was asked what it last answered for this node's lease."""
    blank: str = ""
    """The token of its lost votes."""

    @property
    def incarnation(self) -> str:
        """The incarnation that answered last; empty when none has."""
        return self.member.incarnation if self.member else ""


@dataclass(frozen=True, slots=True)
class Death:
    """A verdict: this incarnation of the node is dead."""

    incarnation: str
    proven: bool
    at: int


class Detector:
    """Watches members. `members` maps those to judge to their incarnations, this node excluded."""

    def __init__(self, timing: Timing, trusts: Callable[[str], bool], counts: Counter[str]) -> None:
        self.known: dict[str, Known] = {}
        self.recent: dict[str, None] = {}
        """Who answered lately, and perhaps some that did a little earlier."""
        self.deaths: dict[str, Death] = {}
        self._timing = timing
        self._trusts = trusts
        self._counts = counts

    def node(self, node: str, now: int) -> Known:
        """What is known of the node; nothing yet counts as silence from now on."""
        return self.known.setdefault(node, Known(since=now))

    def fresh(self, node: str, now: int) -> bool:
        """Whether the node answered lately."""
        known = self.known.get(node)
        return known is not None and now - known.heard <= self._timing.suspect_after

    def suspects(self, node: str) -> bool:
        """Whether it is a suspect, or condemned and not out of the view yet."""
        known = self.known.get(node)
        return node in self.deaths or (known is not None and known.suspicion is not None)

    def refused(self, node: str) -> bool:
        """Whether the node's host refuses, and that proves that no process of it lives (R2a)."""
        known = self.known.get(node)
        return known is not None and known.refused and self._trusts(node)

    def forgive(self, now: int) -> None:
        """This process was stopped, or cut off: nothing before now is held against anybody, and a
        host that refuses is news again."""
        for known in self.known.values():
            known.since = now
            known.refused = False
            known.suspicion = None
        self.deaths.clear()

    def begin(self, now: int, node: str) -> None:
        """A membership begins: what was held against an earlier one of the node is void."""
        known = self.node(node, now)
        known.since = now
        known.suspicion = None
        known.trusted_until = NEVER
        self.deaths.pop(node, None)

    def answered(self, now: int, node: str) -> None:
        """A living node clears itself of any suspicion."""
        known = self.node(node, now)
        known.heard = now
        self.recent[node] = None
        known.refused = False
        if known.suspicion is not None:
            known.suspicion = None
            self._counts["false_suspicions"] += 1
        death = self.deaths.get(node)
        if death is not None and death.incarnation == known.incarnation:
            del self.deaths[node]

    def broken(
        self, now: int, node: str, *, refused: bool, members: Mapping[str, str]
    ) -> list[Send]:
        """No stream to the node can be made. A trusted refusal is proof of death."""
        known = self.node(node, now)
        known.heard = NEVER
        known.refused = refused
        if node not in members:
            return []
        if refused and self._trusts(node):
            self.condemn(now, node, members[node], proven=True)
            return []
        return self.suspect(now, node, members)

    def suspect(self, now: int, node: str, members: Mapping[str, str]) -> list[Send]:
        """Ask others about a member, unless that was done lately."""
        known = self.node(node, now)
        if known.suspicion is not None or node in self.deaths or now < known.trusted_until:
            return []
        self._counts["suspicions"] += 1
        known.suspicion = Suspicion(since=now)
        return self._ask(now, node, known.suspicion, members)

    def confirmed(
        self, now: int, node: str, by: str, verdict: Verdict, members: Mapping[str, str]
    ) -> None:
        """What another member saw of a suspect."""
        known = self.known.get(node)
        if known is None or known.suspicion is None or by not in known.suspicion.asked:
            return
        known.suspicion.asked[by] = verdict
        if verdict == "alive":
            known.suspicion = None
            known.trusted_until = now + RESPITE * self._timing.suspect_after
            self._counts["false_suspicions"] += 1
        elif verdict == "refused" and node in members and self._trusts(node):
            self.condemn(now, node, members[node], proven=True)

    def condemn(self, now: int, node: str, incarnation: str, *, proven: bool) -> None:
        """The verdict on one incarnation of a member."""
        known = self.node(node, now)
        known.suspicion = None
        if known.incarnation in ("", incarnation):
            known.heard = NEVER
        if node not in self.deaths or proven:
            self.deaths[node] = Death(incarnation, proven, now)

    def tick(self, now: int, watched: Iterable[str], members: Mapping[str, str]) -> list[Send]:
        """Suspect the silent ones among the watched, and judge every suspect."""
        timing = self._timing
        sends = []
        for node in watched:
            known = self.node(node, now)
            if now - max(known.heard, known.since) > timing.suspect_after:
                sends += self.suspect(now, node, members)
        suspects = [(node, k.suspicion) for node, k in self.known.items() if k.suspicion]
        for node, suspicion in suspects:
            if node in members:
                sends += self._judge(now, node, suspicion, members)
        for node in [node for node in self.recent if not self.fresh(node, now)]:
            del self.recent[node]
        patience = timing.suspect_after + timing.confirm_after
        for node, death in list(self.deaths.items()):
            # Nobody acted on it, so perhaps the decider sees the node alive: look again.
            if members.get(node) != death.incarnation or now - death.at > patience:
                del self.deaths[node]
        return sends

    def _judge(
        self, now: int, node: str, suspicion: Suspicion, members: Mapping[str, str]
    ) -> list[Send]:
        late = now - suspicion.since >= self._timing.confirm_after
        verdicts = suspicion.asked.values()
        if not late and (not suspicion.asked or None in verdicts):
            return []
        if suspicion.asked and set(verdicts) == {None}:
            suspicion.since = now
            more = self._ask(now, node, suspicion, members)
            if more:
                return more
        self.condemn(now, node, members[node], proven=False)
        return []

    def _ask(
        self, now: int, node: str, suspicion: Suspicion, members: Mapping[str, str]
    ) -> list[Send]:
        recent = sorted(other for other in self.recent if other in members)
        others = [other for other in recent if self._can_confirm(other, node, now)]
        chosen = [other for other in others if other not in suspicion.asked][:CONFIRMERS]
        for other in chosen:
            suspicion.asked[other] = None
        return [Send(other, Confirm(node), self._timing.confirm_after) for other in chosen]

    def _can_confirm(self, other: str, node: str, now: int) -> bool:
        trusted = other not in self.deaths and self.node(other, now).suspicion is None
        return other != node and trusted and self.fresh(other, now)
