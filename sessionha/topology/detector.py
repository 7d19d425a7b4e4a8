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
DETECTED = (50, 100, 200, 300, 500, 1_000, 1_500, 2_000, 3_000, 5_000, 10_000)
"""Milliseconds; the upper ends of the ranges in which detection times are counted."""


DETECTIONS = "detected"
"""How the names of their counts begin."""


def detected(end: int | None) -> str:
    """The name of the count of a range; None: beyond the last end."""
    return f"{DETECTIONS}_later" if end is None else f"{DETECTIONS}_within_{end}"


def note_detection(counts: Counter[str], took: int) -> None:
    """Count one detection that took so many milliseconds."""
    counts[f"{DETECTIONS}_ms"] += took
    counts[detected(next((end for end in DETECTED if took <= end), None))] += 1


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
    straight: int = NEVER
    """When it last answered a call that took no detour."""
    seen: int = NEVER
    """When there was any sign of life; no later verdict takes it back."""
    doubted: bool = False
    """It was condemned, and nobody acted on that: so others may see it alive."""
    asked: int = NEVER
    sought: int = NEVER
    """When others were asked for a way to it, by `seek_ways`."""
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
    description: str = ""
    """The hash of its description, as it told last."""

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


@dataclass(frozen=True, slots=True)
class Cut:
    """A verdict: this incarnation of a node lives, and no member leads there by one hop."""

    incarnation: str
    at: int


class Detector:
    """Watches members. `members` maps those to judge to their incarnations, this node excluded."""

    def __init__(self, timing: Timing, trusts: Callable[[str], bool], counts: Counter[str]) -> None:
        self.known: dict[str, Known] = {}
        self.recent: dict[str, None] = {}
        """Who answered lately, and perhaps some that did a little earlier."""
        self.deaths: dict[str, Death] = {}
        self.cuts: dict[str, Cut] = {}
        self.detours: dict[str, str] = {}
        """Members that only answer by one hop, and through which member."""
        self._watched: frozenset[str] = frozenset()
        self._suspected: dict[str, None] = {}
        """Who is suspected, and perhaps some that were a little earlier."""
        self._timing = timing
        self._trusts = trusts
        self._counts = counts

    def node(self, node: str, now: int) -> Known:
        """What is known of the node; nothing yet counts as silence from now on."""
        known = self.known.get(node)
        if known is None:
            known = self.known[node] = Known(since=now)
        return known

    def fresh(self, node: str, now: int) -> bool:
        """Whether the node answered lately."""
        known = self.known.get(node)
        return known is not None and now - known.heard <= self._timing.suspect_after

    def reaches(self, node: str, now: int) -> bool:
        """Whether the node answered lately, and straight."""
        known = self.known.get(node)
        return known is not None and now - known.straight <= self._timing.suspect_after

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
        self.cuts.clear()

    def seek_ways(self, now: int, members: Mapping[str, str]) -> list[Send]:
        """Of a node that hears too few to suspect anybody: ask all who answer for the members that
        do not. "Alive" makes the one who says it the way there; nothing else counts."""
        sends = []
        for node in members:
            known = self.node(node, now)
            if self.fresh(node, now) or now - known.sought <= self._timing.suspect_after:
                continue
            others = [other for other in self.recent if other != node and self.reaches(other, now)]
            if others:
                known.sought = now
                self.detours.pop(node, None)
            sends += [Send(other, Confirm(node), self._timing.confirm_after) for other in others]
        return sends

    def begin(self, now: int, node: str) -> None:
        """A membership begins: what was held against an earlier one of the node is void."""
        known = self.node(node, now)
        known.since = now
        known.suspicion = None
        known.trusted_until = NEVER
        known.doubted = False
        self.deaths.pop(node, None)
        self.cuts.pop(node, None)
        self.detours.pop(node, None)

    def answered(self, now: int, node: str, *, straight: bool = True) -> None:
        """A living node clears itself of any suspicion; a straight answer ends its detour."""
        known = self.node(node, now)
        known.heard = known.seen = now
        self.recent[node] = None
        if straight:
            known.straight = now
            known.refused = known.doubted = False
            self.detours.pop(node, None)
        self.cuts.pop(node, None)
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
        known.straight = NEVER
        known.refused = refused
        if node in self.detours and not (refused and self._trusts(node)):
            return []  # that is why there is one
        known.heard = NEVER
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
        return self._ask(now, node, self._begin_suspicion(now, node), members)

    def _begin_suspicion(self, now: int, node: str) -> Suspicion:
        self._suspected[node] = None
        suspicion = self.node(node, now).suspicion = Suspicion(since=now)
        return suspicion

    def confirmed(
        self, now: int, node: str, by: str, verdict: Verdict, members: Mapping[str, str]
    ) -> None:
        """What another member saw of a suspect."""
        known = self.known.get(node)
        if known is None:
            return
        if known.suspicion is not None and by in known.suspicion.asked:
            known.suspicion.asked[by] = verdict
        elif not self._seeks(now, known) or node not in members or verdict != "alive":
            return
        if verdict == "alive":
            known.seen = now
            if self.reaches(by, now):
                self._go_through(now, node, by)
        elif verdict == "refused" and node in members and self._trusts(node):
            self.condemn(now, node, members[node], proven=True)

    def _seeks(self, now: int, known: Known) -> bool:
        return known.heard < known.sought and now - known.sought <= self._timing.confirm_after

    def condemn(self, now: int, node: str, incarnation: str, *, proven: bool) -> None:
        """The verdict on one incarnation of a member."""
        known = self.node(node, now)
        known.suspicion = None
        if known.incarnation in ("", incarnation):
            known.heard = known.straight = NEVER
        self.detours.pop(node, None)
        if node not in self.deaths or proven:
            self.deaths[node] = Death(incarnation, proven, now)

    def tick(self, now: int, watched: Iterable[str], members: Mapping[str, str]) -> list[Send]:
        """Suspect the silent ones among the watched, and judge every suspect."""
        timing = self._timing
        sends = self._look_at_detours(now, members) if self.detours else []
        before, self._watched = self._watched, frozenset(watched)
        for node in dict.fromkeys((*watched, *self.detours)):
            known = self.node(node, now)
            if node in self._watched and node not in before:
                known.since = now  # nobody asked it until now
            if now - max(known.heard, known.since) > timing.suspect_after:
                sends += self.suspect(now, node, members)
        for node in list(self._suspected):
            suspicion = self.node(node, now).suspicion
            if suspicion is None:
                del self._suspected[node]
            elif node in members:
                sends += self._judge(now, node, suspicion, members)
        for node in [node for node in self.recent if not self.fresh(node, now)]:
            del self.recent[node]
        patience = timing.suspect_after + timing.confirm_after
        for node, death in list(self.deaths.items()):
            if members.get(node) != death.incarnation:
                del self.deaths[node]
            elif now - death.at > patience:
                sends += self._look_again(now, node, death, members)
        for node, cut in list(self.cuts.items()):
            if members.get(node) != cut.incarnation or now - cut.at > patience:
                del self.cuts[node]
        return sends

    def _go_through(self, now: int, node: str, by: str) -> None:
        """The suspect lives: what is for it takes a hop until it answers straight."""
        known = self.node(node, now)
        known.suspicion = None
        known.doubted = False
        known.since = now
        self.deaths.pop(node, None)
        known.trusted_until = now + RESPITE * self._timing.suspect_after
        self._counts["false_suspicions"] += 1
        self._counts["detours"] += 1
        self.detours[node] = by

    def _look_at_detours(self, now: int, members: Mapping[str, str]) -> list[Send]:
        """A detour that leads nowhere any more is given up, and others are asked."""
        sends = []
        for node, by in list(self.detours.items()):
            known = self.node(node, now)
            answers = now - max(known.heard, known.since) <= self._timing.suspect_after
            if answers and self.reaches(by, now) and node in members:
                continue
            del self.detours[node]
            known.trusted_until = NEVER
            if node in members:
                sends += self.suspect(now, node, members)
        return sends

    def _look_again(
        self, now: int, node: str, death: Death, members: Mapping[str, str]
    ) -> list[Send]:
        """Nobody acted on a verdict: perhaps the decider sees the node alive, or is itself dead.
        What is no proof stands until somebody sees the node."""
        self.node(node, now).doubted = True
        if death.proven:
            del self.deaths[node]
            return []
        self.deaths[node] = Death(death.incarnation, proven=False, at=now)
        return self._ask(now, node, self._begin_suspicion(now, node), members)

    def _judge(
        self, now: int, node: str, suspicion: Suspicion, members: Mapping[str, str]
    ) -> list[Send]:
        late = now - suspicion.since >= self._timing.confirm_after
        verdicts = suspicion.asked.values()
        if not late and (not suspicion.asked or None in verdicts):
            return []
        lives = "alive" in verdicts
        if suspicion.asked and (lives or set(verdicts) == {None}):
            suspicion.since = now
            more = self._ask(now, node, suspicion, members)
            if more:
                return more
        if lives:
            self.node(node, now).suspicion = None
            self.deaths.pop(node, None)
            self.cuts[node] = Cut(members[node], now)
            self._counts["cuts"] += 1
        else:
            self.condemn(now, node, members[node], proven=False)
        return []

    def _ask(
        self, now: int, node: str, suspicion: Suspicion, members: Mapping[str, str]
    ) -> list[Send]:
        """Members, and nodes that want to be: those first that could pass messages on."""
        others = sorted(other for other in self.recent if self._can_confirm(other, node, now))
        others = [other for other in others if other in members or self.reaches(other, now)]
        others.sort(key=lambda other: (not self.reaches(other, now), other not in members))
        chosen = [other for other in others if other not in suspicion.asked]
        if not self.node(node, now).doubted:
            chosen = chosen[:CONFIRMERS]
        for other in chosen:
            suspicion.asked[other] = None
        return [Send(other, Confirm(node), self._timing.confirm_after) for other in chosen]

    def _can_confirm(self, other: str, node: str, now: int) -> bool:
        trusted = other not in self.deaths and self.node(other, now).suspicion is None
        return other != node and trusted and self.fresh(other, now)
