"""The topology automaton of one node: events and time in, effects out.

What both ways of agreeing share: who is known and alive, joins, goodbyes, leases. How the next
view comes about is in `available` (its lowest member decides it) and in `quorum` (a majority
does); which states there are, and what leads from one to another, in `states`.

No asyncio, no clock, no chance: the same events give the same effects.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterable, Mapping

import msgspec

from sessionha.discovery.base import Found
from sessionha.identity import NO_VIEW, ViewID
from sessionha.peer.base import Sender, Way
from sessionha.peer.messages import (
    Confirm,
    Confirmed,
    Describe,
    Described,
    Failed,
    Install,
    Installed,
    Join,
    Leave,
    Message,
    Ping,
    Pong,
    Report,
)
from sessionha.topology.around import WATCH_ALL, WATCHED, Around
from sessionha.topology.comparison import Comparison
from sessionha.topology.description import Description, same_host
from sessionha.topology.detector import NEVER, Detector, Known, note_detection
from sessionha.topology.effects import Effect, Lease, Log, Renew, Send, Write
from sessionha.topology.health import Signs
from sessionha.topology.joiners import Joiners
from sessionha.topology.members import Plan, Removal, forked, holds
from sessionha.topology.states import HEARS, MOVES, Event, State
from sessionha.topology.timing import Admission, Timing
from sessionha.view import NO_MEMBERS, Member, View

STRANGERS = 8
"""Nodes outside the view that are looked for in one round."""
SEEK_EVERY = 1_000
"""Milliseconds between two looks at a configured node that is not in the view."""
MEETING = 8
"""With many nodes so many, the first that live, are where all others look for a view."""
PACE = 1
"""With many members a view is followed by another after so many milliseconds for each of them: to
send a view of a thousand members to each of them takes about a second."""
_IN_VIEWS = (State.JOINED, State.LEAVING)
ANOTHER_ID = "give each node its own `node` (SESSIONHA_NODE)"
"""What to do about two nodes of one ID."""
LEAVE_PATIENCE = 1_000
"""Milliseconds that a leaving node waits for the view without it."""


class Automaton:
    """One node's part in agreeing on the membership."""

    def __init__(
        self,
        me: Member,
        description: Description,
        timing: Timing,
        now: int,
        *,
        view: View,
        kept: View | None = None,
        trust_refused: bool | None = None,
        admission: Admission = "static-only",
        run: int = 0,
        detours: Mapping[str, Way] | None = None,
    ) -> None:
        """`detours`: what another engine of the node knew that led it before."""
        self.me = me
        self.view = view
        """What the store's row says; without this node while it is no member."""
        self.kept = kept
        """The view that has to be verified, while reconnecting."""
        self.counts: Counter[str] = Counter()
        self._description = description
        self._timing = timing
        self._trust_refused = trust_refused
        self._admission: Admission = admission
        self._found: Mapping[str, Found] = {}
        self._run = run
        self._joined_at = now
        self._lease = NEVER
        self._detector = Detector(timing, self._trusts, self.counts)
        self._detector.detours = {node: way.via for node, way in (detours or {}).items()}
        self._detours: Mapping[str, str] = dict(self._detector.detours)
        """Those that were told."""
        self._cuts: dict[tuple[str, str], int] = {}
        """Pairs of members between which nothing passes, and when that was reported."""
        self._ticked = now
        self._since = now
        self._sent = NEVER
        self._told: dict[Message, int] = {}
        self._renewing = False
        self._returning = False
        self._highest = max(view.id.number, kept.id.number if kept else 0)
        self._last = kept if kept is not None else view if self.is_member else None
        self._joins = Joiners(timing, self.counts, self._log)
        self._leavers: dict[str, Leave] = {}
        self._comparison = Comparison(description, self.counts)
        self._dismissed: set[str] = set()
        self._described: dict[str, Member] = {}
        self._rejection = ""
        self._rejections: dict[str, str] = {}
        self._granting: set[str] = set()
        self._anew: dict[str, None] = {}
        """Members that answered in another incarnation, when they did last."""
        self._around: Around | None = None
        self._asked = ""
        """The member that was asked to let this node join."""
        self._looked_at = NEVER
        self._entered_at = NEVER
        self._out: list[Effect] = []
        self.state = self._first_state()

    def _first_state(self) -> State:
        if self.is_member:
            return State.JOINED
        return State.CONNECTING if self.kept is None else State.RECONNECTING

    # --- questions -------------------------------------------------------------------------------

    @property
    def is_member(self) -> bool:
        """Whether the view has this node in its present incarnation."""
        return holds(self.view, self.me.node, self.me.incarnation)

    @property
    def addresses(self) -> Mapping[str, str]:
        """Where nodes listen: the configured ones, the members, who was found and who asks to join.

        A member keeps its address as long as it is one, whoever claims its ID elsewhere.
        """
        around = self._look_around()
        if around.complete and self._admission == "static-only":
            return around.described
        found = {member.node: self._address(member) for member in (self.kept or self.view).members}
        if self._admission == "dynamic":
            joining = {join.me.node: join.me.peer for join in self._joins}
            found = {node: each.address for node, each in self._found.items()} | joining | found
        found |= self._description.addresses
        found.pop(self.me.node, None)
        return found

    def _address(self, member: Member) -> str:
        """Where a member listens: by its own last word, else by the view. Where its incarnation was
        found counts only while it cannot be reached, so that false records lead nobody away."""
        known, found = self._detector.known.get(member.node), self._found.get(member.node)
        lost = known is None or known.heard == NEVER
        if lost and found is not None and found.incarnation == member.incarnation:
            return found.address
        told = known.member if known is not None else None
        return told.peer if told and told.incarnation == member.incarnation else member.peer

    @property
    def neighbours(self) -> tuple[str, ...]:
        """The nodes to hold streams to: those watched, and the one that decides."""
        if len(self.addresses) < WATCH_ALL:
            return tuple(sorted(self.addresses))
        decider = next((node for node in self.view.by_name if node != self.me.node), None)
        return tuple(sorted({*self._watched(), *([decider] if decider else [])}))

    @property
    def differing(self) -> Mapping[str, str]:
        """Nodes that have had another description for a while, each with what differs."""
        return self._comparison.reported

    @property
    def detours(self) -> Mapping[str, Way]:
        """Members that are reached by one hop only (R1)."""
        others, detours = self._others(), self._detector.detours
        return {node: Way(by, others[node]) for node, by in detours.items() if node in others}

    def signs(self, node: str, now: int) -> Signs:
        """What is known of another node besides the view."""
        known = self._detector.known.get(node)
        suspected = self._detector.suspects(node)
        if known is None or not self._fresh(node, now):
            return Signs(suspected=suspected)
        return Signs(known.state, known.incarnation, suspected=suspected)

    def lacks(self, now: int) -> tuple[str, ...]:
        """The nodes without which this one cannot serve now."""
        if self.state is State.CONNECTING:
            return tuple(node for node in self._configured if not self._fresh(node, now))
        if self.state is State.RECONNECTING and self.kept is not None:
            return tuple(node for node in self.kept.nodes if node != self.me.node)
        return ()

    def outvoted(self, now: int) -> bool:  # noqa: ARG002 - see QuorumAutomaton
        """Whether too few of those who decide answer."""
        return False

    def waiting_for(self, now: int) -> str:
        """What this node waits for, for people; empty when it waits for nothing."""
        if self.state is State.CONNECTING:
            found = [node for node in self._configured if self._fresh(node, now)]
            missing = [node for node in self._configured if node not in found]
            sought = names(missing) if self._admission == "static-only" or missing else "others"
            return f"a view: found {names(found)}, looking for {sought}"
        if self.state is State.JOINING:
            why = f" ({self._rejection})" if self._rejection else ""
            return f"a member to admit this node{why}"
        if self.state is State.RECONNECTING and self.kept is not None:
            others = [node for node in self.kept.nodes if node != self.me.node]
            return f"{names(others)} to say whether view {self.kept.id.number} still holds"
        return "a view without this node" if self.state is State.LEAVING else ""

    # --- events ----------------------------------------------------------------------------------

    def tick(self, now: int) -> list[Effect]:
        """Time passes; call it every 25 ms or so."""
        self._wake(now)
        self._ticked = now
        if self.state is not State.STOPPED:
            self._ping_due(now)
        if self.state in (State.JOINED, State.LEAVING):
            self._out += self._detector.tick(now, self._watched(), self._others())
        return self._act(now)

    def link_up(self, now: int, node: str, incarnation: str) -> list[Effect]:
        """A stream to the node was made."""
        self._wake(now)
        known = self._detector.node(node, now)
        known.refused, known.seen = False, now
        if incarnation != known.incarnation or not self._fresh(node, now):
            self._ping(now, node)
        return self._act(now)

    def link_down(self, now: int, node: str, *, refused: bool) -> list[Effect]:
        """A stream to the node broke and could not be made again."""
        self._wake(now)
        self._out += self._detector.broken(now, node, refused=refused, members=self._others())
        return self._act(now)

    def received(self, now: int, sender: Sender, message: Message) -> list[Effect]:
        """A message came. What any engine can answer from the store is answered elsewhere."""
        self._wake(now)
        if (known := self._detector.known.get(sender.node)) is not None:
            known.seen = now
        if type(message) not in HEARS[self.state]:
            self._drop(sender, message)
            return self._act(now)
        match message:
            case Ping():
                self._pinged(now, sender, message)
            case Install():
                self._learn(now, message.view)
            case Join():
                self._asked_to_join(now, sender, message)
            case Report():
                self._reported_dead(now, sender, message)
            case Leave():
                self._said_goodbye(sender, message)
        return self._act(now)

    def replied(
        self, now: int, node: str, request: Message, reply: Message, *, straight: bool = False
    ) -> list[Effect]:
        """A call that `Send` asked for was answered; `straight`: as it was asked for."""
        self._wake(now)
        match request, reply:
            case Ping(), Pong():
                self._ponged(now, node, reply, straight=straight)
                if reply.granted and request.asked > self._joined_at and self.is_member:
                    known = self._detector.node(node, now)
                    known.granted = max(known.granted, request.asked)
                    self._granting.add(node)
            case Confirm(), Confirmed():
                self._detector.confirmed(now, request.node, node, reply.verdict, self._others())
            case Install(), Installed():
                self._learn(now, reply.view)
                self._accepted(reply.view)
            case Describe(), Described():
                self._out += self._comparison.told(node, Description(reply.nodes))
            case Join(), Failed() if self.state is State.JOINING:
                self._rejected(node, reply.reason)
            case _:
                pass
        return self._act(now)

    def unanswered(self, now: int, node: str, *, refused: bool) -> list[Effect]:
        """A call that `Send` asked for had no answer. A refusal is news; silence shows anyway."""
        self._wake(now)
        if refused and not self._detector.node(node, now).refused:
            return self.link_down(now, node, refused=True)
        if node == self._decider and node not in self._watched():
            # With many members few watch it, and those are perhaps dead or cut off as well.
            self._out += self._detector.suspect(now, node, self._others())
        return self._act(now)

    def suspect(self, now: int, node: str) -> list[Effect]:
        """The data path got no answer from the node."""
        self._wake(now)
        others = self._others()
        if self.state is State.JOINED and node in others:
            self._ping(now, node)
            self._out += self._detector.suspect(now, node, others)
        return self._act(now)

    def describe(self, now: int, me: Member) -> list[Effect]:
        """This node describes itself anew: ready, weight, zone, url."""
        self.me = msgspec.structs.replace(me, incarnation=self.me.incarnation)
        return self._act(now)

    def reloaded(self, now: int, description: Description, admission: Admission) -> list[Effect]:
        """The description of the cluster is another one now. Members that it had and has no more
        leave the view; whoever was refused may ask again."""
        before, after = {*self._description.order}, {*description.order}
        if admission == "static-only":
            self._dismissed |= before - after
        self._dismissed -= after
        self._description, self._admission = description, admission
        self._comparison.describe(description)
        self._joins.forgive()
        return self._act(now)

    def found(self, now: int, directory: Mapping[str, Found]) -> list[Effect]:
        """Discovery says where nodes are, this one left out; it replaces what it said before."""
        self._found = directory
        return self._act(now)

    def leave(self, now: int, *, returning: bool) -> list[Effect]:
        """Say goodbye; `stopped` follows when the others have a view without this node."""
        self._returning = returning
        self._since = now
        self._sent = NEVER
        self._end_lease()
        if self.state is State.JOINED and not self._others():
            self._move(Event.ALONE)
        elif self.state is not State.STOPPED:
            self._move(Event.GOODBYE)
        return self._act(now)

    def stored(self, now: int, view: View, kept: View | None) -> list[Effect]:
        """A sibling engine changed what the store holds."""
        before = self.kept or self.view
        was_member = holds(before, self.me.node, self.me.incarnation)
        self.view, self.kept = view, kept
        self._highest = max(self._highest, view.id.number)
        if self.state is State.STOPPED:
            pass
        elif self.is_member:
            self._entered(now, before)
        elif was_member and kept is None:
            self._left_out(now, before)
        return self._act(now)

    def renewed(self, now: int, incarnation: str) -> list[Effect]:
        """The store has a new incarnation, as `Renew` asked."""
        self.me = msgspec.structs.replace(self.me, incarnation=incarnation)
        self._renewing = False
        return self._act(now)

    # --- what follows from an event --------------------------------------------------------------

    def _act(self, now: int) -> list[Effect]:
        if not self._renewing:
            match self.state:
                case State.CONNECTING | State.JOINING:
                    self._seek(now)
                case State.RECONNECTING:
                    self._return(now)
                case State.JOINED:
                    self._govern(now)
                case State.LEAVING:
                    self._depart(now)
                case State.STOPPED:
                    pass
        if self.state is State.JOINED:
            self._prolong(now)
        if self._detector.detours != self._detours:
            self._tell_detours()
        out, self._out = self._out, []
        return out

    def _prolong(self, now: int) -> None:
        """Serve for as long as those who were heard of allow (R9)."""
        until = self._heard_at(now) + self._timing.lease
        if until - self._lease >= self._timing.heartbeat // 2:
            self._lease = until
            self._out.append(Lease(until))

    def _heard_at(self, now: int) -> int:
        """The instant to count the lease from: what a member was asked last that it answered."""
        others = self._others()
        if not others:
            return now
        if len(self._granting) > WATCH_ALL:
            begun = now - self._timing.lease
            late = [n for n in self._granting if self._detector.node(n, now).granted < begun]
            self._granting.difference_update(late)
        granted = (self._detector.node(n, now).granted for n in self._granting if n in others)
        return max(granted, default=NEVER)

    def _end_lease(self) -> None:
        self._lease = NEVER
        self._out.append(Lease(0))

    def _seek(self, now: int) -> None:
        """In no view: join the best that is in force, or form one when there is none."""
        best = self._best_view(now)
        if best is not None:
            if self.state is State.CONNECTING:
                self._move(Event.FOUND, numbered(best.id))
                self._sent = NEVER
            if now - self._sent >= self._timing.heartbeat:
                self._sent = now
                self._ask_to_join(now, best)
        elif self.state is State.JOINING:
            self._move(Event.VANISHED)
            self._since = now
        else:
            self._form(now)

    def _best_view(self, now: int) -> View | None:
        views = [
            known.view
            for node in self._detector.recent
            if (known := self._detector.known[node]).state in _IN_VIEWS
            and self._in_force(now, node, known)
            and known.view is not None
        ]
        return max(views, key=lambda view: view.id, default=None)

    def _in_force(self, now: int, node: str, known: Known) -> bool:
        """Whether the node lives in the view that it showed."""
        return (
            known.state in _IN_VIEWS
            and known.view is not None
            and known.view.id == known.view_id
            and self._fresh(node, now)
            and holds(known.view, node, known.incarnation)
        )

    def _ask_to_join(self, now: int, best: View) -> None:
        living = [n for n in self._detector.recent if best.member(n) and self._fresh(n, now)]
        target = min((node for node in living if node != self.me.node), default=None)
        if target is None:
            return
        self._asked = target
        served = self._last is not None and forked(self._last, best)
        kept = self._highest_held > 0
        join = Join(me=self.me, view=self.view, served=served, kept=kept)
        self._out.append(Send(target, join, self._timing.suspect_after))

    @property
    def _highest_held(self) -> int:
        return max(self.view.id.number, self.kept.id.number if self.kept else 0)

    def _missing(self, view: View, alive: Mapping[str, str]) -> dict[str, Removal]:
        return {
            member.node: Removal("failed", proven=self._detector.refused(member.node))
            for member in view.members
            if alive.get(member.node) != member.incarnation
        }

    def _restore(self, now: int, kept: View) -> None:
        before = self.view
        self._write(kept)
        self._entered(now, before)

    def _removals(self, now: int) -> dict[str, Removal]:
        removed: dict[str, Removal] = {}
        others = self._others()
        for node in {**self._leavers, **self._detector.deaths, **self._anew}:
            incarnation = others.get(node)
            if incarnation is None:
                continue
            leave = self._leavers.get(node)
            known = self._detector.known.get(node)
            if leave is not None and leave.incarnation == incarnation:
                removed[node] = Removal("returning" if leave.returning else "left", proven=True)
            elif known and known.incarnation not in ("", incarnation) and self._fresh(node, now):
                removed[node] = Removal("failed", proven=True)  # its address answers as another
            death = self._detector.deaths.get(node)
            if node not in removed and death is not None and death.incarnation == incarnation:
                removed[node] = Removal("failed", proven=death.proven)
        for join in self._joins:
            # Beyond a broken link: no hop leads to who it was, and a member has seen who it is now.
            node = join.me.node
            replaced = others.get(node) not in (None, join.me.incarnation)
            if replaced and join.vouched and not self._fresh(node, now):
                removed.setdefault(node, Removal("failed", proven=False))
        for node in self._dismissed:
            if node in others and self._may_dismiss(now, node):
                removed.setdefault(node, Removal("left", proven=False))
        if self._cuts or self._detector.cuts:
            cut_off = self._cut_off(now) - removed.keys()
            removed |= dict.fromkeys(cut_off, Removal("failed", proven=False))
        return removed

    def _cut_off(self, now: int) -> set[str]:
        """Of two members between which nothing passes, the later one in the order (R1)."""
        patience = self._timing.suspect_after
        self._cuts = {pair: at for pair, at in self._cuts.items() if now - at <= patience}
        own = {(self.me.node, node): cut.at for node, cut in self._detector.cuts.items()}
        place = {node: index for index, node in enumerate(self._description.order)}
        return {
            max(pair, key=lambda node: (place.get(node, len(place)), node))
            for pair in {**own, **self._cuts}
            if self.view.member(pair[0]) and self.view.member(pair[1])
        }

    def _may_dismiss(self, now: int, node: str) -> bool:  # noqa: ARG002
        """Whether a member that is described no more leaves the view now."""
        return True

    def _arrivals(
        self, now: int, removed: Mapping[str, Removal]
    ) -> tuple[tuple[Member, ...], tuple[Member, ...]]:
        """Who joins, and which members describe themselves anew."""
        joining = [
            msgspec.structs.replace(join.me, kept=join.kept)
            for join in self._joins
            if (node := join.me.node) in removed or not self.view.member(node)
            if self._is_admitted(now, join) and not self._joins.is_held_back(now, node)
        ]
        updated = [
            told
            for node in (self.me.node, *self._described)
            if node not in removed
            and (member := self.view.member(node)) is not None
            and (told := self._told_by(member)) is not None
            and _differs(told, member)
        ]
        return tuple(joining), tuple(updated)

    def _told_by(self, member: Member) -> Member | None:
        """How a member describes itself since it joined."""
        told = self.me if member.node == self.me.node else self._described.get(member.node)
        return told if told is not None and told.incarnation == member.incarnation else None

    def _is_admitted(self, now: int, join: Join) -> bool:
        """Whether the joiner is who answers at its node's address, so that it can be reached and
        nobody else lives under that ID. Where this node cannot reach it, a member's word counts."""
        if join.vouched and not self._fresh(join.me.node, now):
            return True
        known = self._detector.known.get(join.me.node)
        return (
            known is not None
            and known.incarnation == join.me.incarnation
            and known.state in (State.CONNECTING, State.JOINING)
            and self._fresh(join.me.node, now)
        )

    def _tell(self, now: int, decider: str) -> None:
        """Not the one that decides: tell who is."""
        news: list[Message] = [
            Report(node, death.incarnation, death.proven)
            for node, death in self._detector.deaths.items()
        ]
        news += [
            Report(node, cut.incarnation, refused=False, cut=True)
            for node, cut in self._detector.cuts.items()
        ]
        news += [leave for node, leave in self._leavers.items() if node in self.view.nodes]
        news += [
            msgspec.structs.replace(join, vouched=self._is_admitted(now, join))
            for join in self._joins
        ]
        mine = self.view.member(self.me.node)
        if mine is not None and _differs(self.me, mine):
            news.append(Join(me=self.me, view=NO_MEMBERS, served=False))
        for message in news:
            if now - self._told.get(message, NEVER) >= self._timing.heartbeat:
                self._told[message] = now
                self._out.append(Send(decider, message, self._timing.confirm_after))

    def _depart(self, now: int) -> None:
        others = self._others()
        if not others or now - self._since >= LEAVE_PATIENCE:
            self._move(Event.UNHEARD if others else Event.ALONE)
        elif now - self._sent >= self._timing.heartbeat:
            self._sent = now
            living = [n for n in others if self._fresh(n, now)]
            goodbye = Leave(self.me.node, self.me.incarnation, self._returning, self._run)
            for node in self._told_of_leaving(living or list(others)):
                self._out.append(Send(node, goodbye, self._timing.heartbeat))

    def _told_of_leaving(self, living: list[str]) -> list[str]:
        """Who has to hear of it: the one that decides."""
        return [min(living)]

    # --- how views come about --------------------------------------------------------------------

    def _form(self, now: int) -> None:
        """Nobody is in a view that could take this node in: begin one, if that is due."""
        raise NotImplementedError

    def _return(self, now: int) -> None:
        """Was a member: does that view still hold?"""
        raise NotImplementedError

    def _govern(self, now: int) -> None:
        """A member: bring the next view about if one is due, or tell who does."""
        raise NotImplementedError

    def _learn(self, now: int, offered: View, *, verified: bool = True) -> None:
        """A view that somebody holds; not `verified`: one that itself is only reconnecting to."""
        raise NotImplementedError

    def _accepted(self, view: View) -> None:
        """A node says that it holds the view it was sent."""

    def _watch_for_another(self, node: str) -> None:
        """Note whether it answers as who the view has under its name."""
        incarnation = self._others().get(node)
        if incarnation in (None, self._detector.known[node].incarnation):
            self._anew.pop(node, None)
        else:
            self._anew[node] = None

    def _bring_up_to_date(self, node: str, known: Known) -> None:
        """Who answers may have missed a view."""
        raise NotImplementedError

    def _stood_still(self, now: int, stopped: int) -> None:
        """This process did not run for so many milliseconds."""

    # --- messages --------------------------------------------------------------------------------

    def _pinged(self, now: int, sender: Sender, ping: Ping) -> None:
        """Somebody looks at us with another view: look back at once."""
        if self._is_foreign(ping.cluster):
            self._drop(sender, ping)
            return
        self._compare(now, sender.node, ping.description)
        known = self._detector.node(sender.node, now)
        news = ping.view != known.view_id or ping.state != known.state
        if sender.node in self.addresses and news and now - known.asked >= self._ping_gap:
            self._ping(now, sender.node)

    @property
    def _ping_gap(self) -> int:
        return self._timing.heartbeat // 5

    def _ponged(self, now: int, node: str, pong: Pong, *, straight: bool) -> None:
        if pong.me.node != node or self._is_foreign(pong.cluster):
            self._drop(Sender(pong.me.node, pong.me.incarnation), pong)
            return
        known = self._detector.node(node, now)
        known.member, known.state, known.blank = pong.me, pong.state, pong.blank
        self._detector.answered(now, node, straight=straight)
        self._watch_for_another(node)
        self._compare(now, node, pong.description)
        known.view_id = ViewID(*pong.view)
        self._highest = max(self._highest, known.view_id.number)
        if pong.newer is not None:
            known.view = pong.newer
            self._learn(now, pong.newer, verified=pong.state != State.RECONNECTING)
        elif known.view is None or known.view.id != known.view_id:
            known.view = self.view if self.view.id == known.view_id else None
        self._check_claim(node, known)
        self._bring_up_to_date(node, known)

    def _asked_to_join(self, now: int, sender: Sender, join: Join) -> None:
        """A node wants in; it must prove by an answer that it is who lives at that address."""
        node = join.me.node
        relayed = sender.node != node
        if relayed and not holds(self.view, sender.node, sender.incarnation):
            self._drop(sender, join)
            return
        if node == self.me.node:
            reason = f"the node ID {node} is that of the node it asked; {ANOTHER_ID}"
            self._joins.refuse(node, join.me.incarnation, reason)
            return
        if self._admission == "static-only" and self._description.node(node) is None:
            reason = (
                f"{node} is not in the description of {self.me.node}; describe it there and"
                " `sessionha reload`, or set `admission` to dynamic"
            )
            self._joins.refuse(node, join.me.incarnation, reason)
            return
        if holds(self.view, node, join.me.incarnation):
            self._described[node] = join.me
            return
        self._highest = max(self._highest, join.view.id.number)
        if not relayed:
            join = msgspec.structs.replace(join, vouched=False)
        self._joins.take(now, join)
        if not self._is_admitted(now, join):
            self._ping(now, node)

    def _check_claim(self, node: str, known: Known) -> None:
        """A second node under one ID is refused while the first one answers."""
        held = self._joins.get(node)
        if held is None or held.me.incarnation == known.incarnation:
            return
        if holds(self.view, node, known.incarnation):
            reason = f"the node ID {node} belongs to a living member; {ANOTHER_ID}"
            self._joins.refuse(node, held.me.incarnation, reason)

    def refusal(self, join: Join) -> str:
        """Why this joiner was refused before; empty when it was not."""
        return self._joins.refusal(join)

    def _rejected(self, node: str, reason: str) -> None:
        rejection = f"{node} refuses this node: {reason}"
        self._rejection = rejection
        if self._rejections.get(node) != reason:
            self._rejections[node] = reason
            self._log(logging.ERROR, rejection)

    def _reported_dead(self, now: int, sender: Sender, report: Report) -> None:
        others = self._others()
        if not holds(self.view, sender.node, sender.incarnation):
            self._drop(sender, report)
        elif others.get(report.node) != report.incarnation:
            return  # old news
        elif report.cut:
            self._reported_cut(now, sender.node, report.node)
        elif report.refused and self._trusts(report.node):
            self._detector.condemn(now, report.node, report.incarnation, proven=True)
        elif self._fresh(report.node, now):
            self.counts["false_suspicions"] += 1
        else:
            self._detector.condemn(now, report.node, report.incarnation, proven=False)

    def _reported_cut(self, now: int, one: str, other: str) -> None:
        """Who reaches both could pass messages on, and has only to be asked."""
        if not (self._detector.reaches(one, now) and self._detector.reaches(other, now)):
            self._cuts[one, other] = now

    def _said_goodbye(self, sender: Sender, leave: Leave) -> None:
        relayed = sender.node != leave.node
        if relayed and not holds(self.view, sender.node, sender.incarnation):
            self._drop(sender, leave)
        elif self._others().get(leave.node) == leave.incarnation:
            self._leavers[leave.node] = leave

    # --- changes of this node's own standing -----------------------------------------------------

    def _write(self, view: View, kept: View | None = None) -> None:
        if (view, kept) != (self.view, self.kept):
            self._out.append(Write(self.view, view, kept))
            self.view, self.kept = view, kept
            self._highest = max(self._highest, view.id.number)

    def _entered(self, now: int, before: View) -> None:
        """The view has this node: what was known for earlier views is settled."""
        self.counts["views"] += 1
        self._entered_at = now
        self._last = self.view
        self._note_failures(now, before)
        self._joins.settle(now, self.view)
        others = self._others()
        self._leavers = {n: gone for n, gone in self._leavers.items() if n in others}
        begun = set()
        for member in self.view.members:
            was = before.member(member.node)
            if was is not member and was != member and member.node in others:
                begun.add(member.node)
                self._detector.begin(now, member.node)
                self._joins.flapping.joined(now, member.node)
                self._anew.pop(member.node, None)
        for node in self._detector.recent:
            if node not in begun:  # its last answer was from before, perhaps as who it was then
                self._watch_for_another(node)
        self._described = {n: m for n, m in self._described.items() if n in others}
        self._told.clear()
        self._cuts.clear()
        self._rejection = ""
        self._rejections.clear()
        self._move(Event.ENTERED, numbered(self.view.id))

    def _is_too_soon(self, now: int) -> bool:
        """Whether the members have hardly taken in the last view: what is news now goes into one
        view, instead of one for each of it."""
        many = len(self.view.members) > WATCH_ALL
        return many and now - self._entered_at < PACE * len(self.view.members)

    def _note_failures(self, now: int, before: View) -> None:
        """How long it took from a member's last sign of life to this view without it."""
        failed = [node for node, how in self.view.departed if how == "failed"]
        failed = [node for node in failed if before.member(node) and not self.view.member(node)]
        for node in failed:
            self.counts["failures"] += 1
            if node not in self.view.absent:
                self._joins.flapping.fell_silent(now, node)
            known = self._detector.known.get(node)
            if known is not None and known.seen != NEVER:
                note_detection(self.counts, now - known.seen)
        if failed:
            self._joins.flapping.keep(now, self.view.nodes)

    def _left_out(self, now: int, before: View) -> None:
        """The others have a view without this node: it is a new member, or it has left."""
        self._last = before
        self._move(Event.LEFT_OUT, numbered(self.view.id))
        if self.state is State.STOPPED:
            return
        self.counts["excluded"] += 1
        self._since = self._joined_at = now
        self._end_lease()
        for known in self._detector.known.values():
            known.granted = NEVER
        self._granting.clear()
        self._detector.detours.clear()
        self._joins.clear()
        self._leavers.clear()
        self._renewing = True
        self._out.append(Renew())

    def _wake(self, now: int) -> None:
        """After a while in which this process did not run nobody is blamed for it."""
        stopped = now - self._ticked
        if stopped < self._timing.pause:
            return
        self._ticked = now
        self._detector.forgive(now)
        self.counts["pauses"] += 1
        self._stood_still(now, stopped)

    def _move(self, event: Event, view: str = "") -> None:
        """Go where the table of transitions leads; staying is no transition."""
        move = MOVES[self.state, event]
        if move.to is self.state:
            return
        self.counts["transitions"] += 1
        self.counts[f"{self.state}_to_{move.to}"] += 1
        self._log(logging.INFO, f"{self.state} → {move.to}: {move.why.format(view=view)}")
        self.state = move.to

    # --- heartbeats ------------------------------------------------------------------------------

    def _ping_due(self, now: int) -> None:
        deaths, detours = self._detector.deaths, self._detector.detours
        for node in (*self._watched(), *detours, *detours.values(), *deaths):
            self._ping_again(now, node)
        for node in self._sought(now):
            self._ping(now, node)
        for join in self._joins:
            self._ping_again(now, join.me.node)
        self._joins.settle(now, self.view)

    def _sought(self, now: int) -> list[str]:
        """Whom to look for now: those who were asked longest ago. With many nodes it is one of them
        in a second for a member, for there are many members; and for others the first ones of the
        description's order that live, where all meet."""
        settled = self.state in (State.JOINED, State.LEAVING)
        heartbeat = self._timing.heartbeat
        every = max(SEEK_EVERY, heartbeat) if settled else heartbeat
        if len(self.addresses) < WATCH_ALL or self.state is State.RECONNECTING:
            return self._strangers(now, every, settled=settled)[:STRANGERS]
        if self.state is State.JOINING and self._fresh(self._asked, now):
            return [self._asked] if self._is_due(now, self._asked) else []
        found = [] if settled else self._meeting(now)
        strangers: list[str] = []
        if now - self._looked_at >= every:
            self._looked_at = now
            strangers = self._strangers(now, every, settled=settled)
            if len(found) == MEETING:
                last = self._rank(found[-1])
                strangers = [node for node in strangers if self._rank(node) < last]
        found += strangers[: 1 if settled else STRANGERS]
        return [node for node in dict.fromkeys(found) if self._is_due(now, node, every)]

    def _strangers(self, now: int, every: int, *, settled: bool) -> list[str]:
        """Whom to look for; of a member only those who are none."""
        around, addresses = self._look_around(), self.addresses
        nodes: Iterable[str] = addresses
        if settled and addresses is around.described:
            nodes = around.outside
        elif settled:
            nodes = [node for node in addresses if self.view.member(node) is None]
        asked = {node: self._detector.node(node, now).asked for node in nodes}
        return sorted((node for node in nodes if now - asked[node] >= every), key=asked.__getitem__)

    def _meeting(self, now: int) -> list[str]:
        """The first nodes in the description's order that live, as far as this one has found them.
        There a node that is in no view learns of one, or forms it."""
        here = [node for node in self._detector.recent if self._fresh(node, now)]
        return sorted(here, key=self._rank)[:MEETING]

    def _rank(self, node: str) -> tuple[int, str]:
        """Where the node stands in the description's order; after all others if it does not."""
        place = self._look_around().place
        return place.get(node, len(place)), node

    def _is_due(self, now: int, node: str, every: int = 0) -> bool:
        return now - self._detector.node(node, now).asked >= (every or self._timing.heartbeat)

    def _ping_again(self, now: int, node: str) -> None:
        if self._is_due(now, node):
            self._ping(now, node)

    def _ping(self, now: int, node: str) -> None:
        known = self._detector.node(node, now)
        known.asked = now
        seen = self.kept or self.view
        # A node that claims this very view without being in it holds another of the same ID
        # (its store was lost): only the whole view tells.
        alien = known.view_id == seen.id and not holds(seen, node, known.incarnation)
        ping = Ping(
            me=self.me,
            view=NO_VIEW if alien else seen.id,
            description=self._description.hash,
            state=self.state,
            asked=now if self.state is State.JOINED else 0,
            lease=self._timing.lease,
            run=self._run,
            cluster=seen.cluster,
        )
        timeout = self._timing.suspect_after
        self._out.append(Send(node, ping, timeout, straight=True))
        if node in self._detector.detours:
            self._out.append(Send(node, ping, timeout))

    def _watched(self) -> tuple[str, ...]:
        """Members that this node watches."""
        others = self._others()
        if len(others) < WATCH_ALL:
            return tuple(others)
        watched: list[str] = []
        alive = dead = 0
        for node in self._look_around().after:
            # Beyond the dead it looks twice as far each time: perhaps a whole zone is gone.
            if alive == WATCHED or len(watched) == WATCHED + 2 * dead:
                break
            watched.append(node)
            dead += node in self._detector.deaths
            alive += node in self._detector.recent
        return tuple(watched)

    @property
    def _decider(self) -> str:
        """Who decides the next view, as far as this member knows; empty for one that is none."""
        others = self._others()
        living = (n for n in self.view.by_name if n in others and n not in self._detector.deaths)
        return next(living, "")

    def _is_foreign(self, cluster: str) -> bool:
        """Whether that is a cluster of the same name with another beginning (R7a)."""
        mine = (self.kept or self.view).cluster
        return "" not in (mine, cluster) and mine != cluster

    # --- small answers ---------------------------------------------------------------------------

    @property
    def _configured(self) -> list[str]:
        """The nodes that are known without a view: written down, or found."""
        known = self._description.order or sorted(self._found)
        return [node for node in known if node != self.me.node]

    def _found_here(self, now: int) -> list[str]:
        """Those of them that live."""
        known = self._description.addresses or self._found
        return [n for n in self._detector.recent if n in known and self._fresh(n, now)]

    def _look_around(self) -> Around:
        """What follows from the view and the description, worked out once for each."""
        around = self._around
        if (
            around is None
            or around.view is not self.view
            or around.kept is not self.kept
            or around.description is not self._description
        ):
            around = self._around = Around.of(self.me, self.view, self.kept, self._description)
        return around

    def _others(self) -> Mapping[str, str]:
        """The other members' incarnations; nobody while this node is no member."""
        return self._look_around().others if self.is_member else {}

    def _fresh(self, node: str, now: int) -> bool:
        """Whether the node answered lately."""
        return self._detector.fresh(node, now)

    def _state_of(self, node: str) -> str:
        return self._detector.known[node].state

    def _trusts(self, node: str) -> bool:
        """Whether a refused connection proves that the node is dead (R2a)."""
        if self._trust_refused is not None:
            return self._trust_refused
        address = self.addresses.get(node)
        return address is not None and same_host(address, self.me.peer)

    def _compare(self, now: int, node: str, theirs: str) -> None:
        if theirs == self._description.hash or node in self.addresses:
            self._out += self._comparison.heard(now, node, theirs, self._timing.suspect_after)

    def _drop(self, sender: Sender, message: Message) -> None:
        self.counts["dropped"] += 1
        text = f"dropped a {type(message).__name__} of {sender.node} while {self.state}"
        self._log(logging.DEBUG, text)

    def _tell_detours(self) -> None:
        before, self._detours = self._detours, dict(self._detector.detours)
        for node, by in self._detours.items():
            if before.get(node) != by:
                text = f"nothing passes straight to {node}: messages for it go through {by}"
                self._log(logging.WARNING, f"{text}; look at the network between the two")
        for node in before.keys() - self._detours.keys():
            self._log(logging.INFO, f"messages for {node} go straight again, or not at all")

    def _log(self, level: int, text: str) -> None:
        self._out.append(Log(level, text))


def numbered(view_id: ViewID) -> str:
    """A view's identity, for people."""
    return f"{view_id.number} ({view_id.lowest})" if view_id.lowest else str(view_id.number)


def _differs(told: Member, held: Member) -> bool:
    return msgspec.structs.replace(told, joined=held.joined, kept=held.kept) != held


def names(nodes: Iterable[str]) -> str:
    """Nodes, for people."""
    return ", ".join(sorted(nodes)) or "nobody"


def reasons(plan: Plan) -> str:
    """Why there is a next view."""
    parts = [f"{node} {removal.how}" for node, removal in sorted(plan.removed.items())]
    parts += [f"{member.node} joins" for member in plan.added]
    parts += [f"{member.node} describes itself anew" for member in plan.updated]
    return ", ".join(parts)
