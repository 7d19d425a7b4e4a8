"""The topology automaton of one node, `quorum` mode: a majority of the electors decides views.

The same states as in available mode. What differs: a view is proposed to the electors of the one
before (Paxos for its number, R2) instead of being put into force by its lowest member; a view that
was kept over a restart holds as soon as a majority holds it too, because nobody serves without a
lease; and the first view needs every elector, for nobody else can tell that there was none.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import msgspec

from sessionha.identity import NO_VIEW
from sessionha.peer.base import Sender
from sessionha.peer.messages import (
    Accept,
    Accepted,
    Failed,
    Install,
    Leave,
    Message,
    Prepare,
    Prepared,
)
from sessionha.topology.automaton import Automaton
from sessionha.topology.description import Description
from sessionha.topology.detector import NEVER
from sessionha.topology.effects import Effect, Release, Send
from sessionha.topology.health import Signs
from sessionha.topology.members import Plan, Removal, holds, next_view
from sessionha.topology.proposal import Proposal
from sessionha.topology.states import State
from sessionha.topology.timing import Admission
from sessionha.view import View

PATIENCE = 3_000
"""Milliseconds after which a proposal is begun anew: longer than the longest lease by default, for
which the electors may have to wait."""

GIVE_UP = "`sessionha bootstrap --without NODE` goes on without one that will never come"
"""What to do about electors that are gone for good."""

ALL_HEAR_ALL = "each must hear all others, and one does not: `sessionha doctor` there says whom"
"""What to do where this node hears all of them."""


class QuorumAutomaton(Automaton):
    """See `Automaton`."""

    def __init__(
        self,
        *given: Any,
        electors: tuple[str, ...],
        identity: str,
        life: str,
        accepted: int = 0,
        blank: str = "",
        **named: Any,
    ) -> None:
        """`electors`: who should decide, and decides the first view; `identity`: what the cluster
        is called if this node begins it; `life`: a name of this automaton that no other has had."""
        self._electors = electors
        self._identity = identity
        self._life = life
        self.accepted = accepted
        """The number of the highest view that this node has accepted as an elector."""
        self.blank = blank
        """The token of its lost votes."""
        self._proposal: Proposal | None = None
        self._why = ""
        self._told_too: set[str] = set()
        self._round = 0
        self._next_try = NEVER
        self._due_since = NEVER
        self._installed_at = NEVER
        self._ticked_last = self._turned = NEVER
        """When the last two ticks were."""
        self._without: frozenset[str] = frozenset()
        super().__init__(*given, **named)

    # --- questions -------------------------------------------------------------------------------

    @property
    def base(self) -> View:
        """The newest view that this node knows to be decided, whether it is in it or not. Electors
        that an operator gave up count as proven dead in it; where nobody is left this node does."""
        held = self.kept or self.view
        if not held.electors:
            held = View(cluster=self._identity, electors=self._electors)
        if not self._without:
            return held
        absent, electors = {*held.absent, *self._without}, held.electors
        if absent.issuperset(electors):
            absent.discard(self.me.node)
            electors = tuple(dict.fromkeys((*electors, self.me.node)))
        return msgspec.structs.replace(held, absent=tuple(sorted(absent)), electors=electors)

    def waiting_for(self, now: int) -> str:
        """See `Automaton.waiting_for`."""
        if self._is_settled_here(now):
            return ""
        base, missing = self.base, self._silent(now)
        lost = ", ".join(self._without_votes(now))
        number = len(base.voters)
        found = f"{number - len(missing)} of {number} electors answer"
        names = f"missing {', '.join(missing) or 'nobody'}"
        if base.id == NO_VIEW:
            what = self._rejection or (GIVE_UP if missing else ALL_HEAR_ALL)
            return f"all electors, to begin: {found}, {names}; {what}"
        if self._needed(now) > base.majority:
            return f"all electors, for {lost} lost their votes: {found}, {names}; {GIVE_UP}"
        if self.state is State.JOINING and number - len(missing) >= base.majority:
            return super().waiting_for(now)
        return f"a majority: {found}, {base.majority} are needed, {names}"

    def signs(self, node: str, now: int) -> Signs:
        """See `Automaton.signs`. A node that is cut off blames nobody, and still does not hear
        the electors, whom it asks with every heartbeat."""
        signs = super().signs(node, now)
        silent = node in self.base.voters and not self._fresh(node, now)
        return signs._replace(suspected=signs.suspected or silent)

    def lacks(self, now: int) -> tuple[str, ...]:
        """See `Automaton.lacks`."""
        return () if self._is_settled_here(now) else self._silent(now)

    def outvoted(self, now: int) -> bool:
        """See `Automaton.outvoted`."""
        return len(self.base.voters) - len(self._silent(now)) < self._needed(now)

    def _is_settled_here(self, now: int) -> bool:
        leased = self._heard_at(now) + self._timing.lease > now
        return self.state is State.STOPPED or (self.state is State.JOINED and leased)

    def _silent(self, now: int) -> tuple[str, ...]:
        """The electors that do not answer."""
        return tuple(n for n in self.base.voters if n != self.me.node and not self._fresh(n, now))

    def _hears_a_majority(self, now: int) -> bool:
        """Whether enough electors answer, this one included, to decide anything with them."""
        base = self.base
        here = [n for n in base.voters if n == self.me.node or self._fresh(n, now)]
        return len(here) >= base.majority

    def _without_votes(self, now: int) -> tuple[str, ...]:
        """The electors that answer, and say that they lost their votes."""
        return tuple(
            n
            for n in self.base.voters
            if (self.blank if n == self.me.node else self._blank_of(n, now))
        )

    def _blank_of(self, node: str, now: int) -> str:
        known = self._detector.known.get(node)
        return known.blank if known is not None and self._fresh(node, now) else ""

    def _needed(self, now: int) -> int:
        """How many electors must be here: all of them for the first view, and where too few that
        are here have their votes."""
        base = self.base
        here = len(base.voters) - len(self._silent(now))
        able = here - len(self._without_votes(now))
        if base.id == NO_VIEW or here >= base.majority > able:
            return len(base.voters)
        return base.majority

    @property
    def neighbours(self) -> tuple[str, ...]:
        """Those, and the electors."""
        others = set(self.base.electors) - {self.me.node}
        return tuple(sorted({*super().neighbours, *(n for n in others if n in self.addresses)}))

    # --- events ----------------------------------------------------------------------------------

    def bootstrap(self, now: int, without: Iterable[str]) -> list[Effect]:
        """Decide the next view without these electors' votes, by an operator's word that they will
        never vote again; void once a view is decided."""
        self._without = frozenset(without) & set(self.base.electors)
        words = ", ".join(sorted(self._without))
        self._log(logging.WARNING, f"told to go on without the votes of {words}")
        self._proposal = None
        return self._act(now)

    def reloaded(self, now: int, description: Description, admission: Admission) -> list[Effect]:
        """See `Automaton.reloaded`."""
        self._electors = description.order
        return super().reloaded(now, description, admission)

    def tick(self, now: int) -> list[Effect]:
        """See `Automaton.tick`. Who is dead by proof is looked at again and again until a view is
        without it: only what this elector sees itself ends a lease early."""
        self._turned, self._ticked_last = self._ticked_last, now
        if self.state is State.JOINED and not self._hears_a_majority(now):
            # It is this node that is cut off; perhaps not from one that is in no view (R1).
            self._detector.forgive(now)
            self._out += self._detector.seek_ways(now, self._others())
        for node, death in self._detector.deaths.items():
            if death.proven:
                self._ping(now, node)
        return super().tick(now)

    def link_down(self, now: int, node: str, *, refused: bool) -> list[Effect]:
        """See `Automaton.link_down`. A dead process serves no more."""
        self._saw_refused(node, refused=refused)
        return super().link_down(now, node, refused=refused)

    def unanswered(self, now: int, node: str, *, refused: bool) -> list[Effect]:
        """See `Automaton.unanswered`."""
        self._saw_refused(node, refused=refused)
        return super().unanswered(now, node, refused=refused)

    def _saw_refused(self, node: str, *, refused: bool) -> None:
        """What was refused was refused after the tick before the last one: an event that waits in
        a busy event loop waits for less than two turns of it."""
        member = self.base.member(node)
        if refused and member is not None and self._trusts(node):
            self._out.append(Release(node, member.incarnation, None, self._turned))

    def received(self, now: int, sender: Sender, message: Message) -> list[Effect]:
        """See `Automaton.received`. Who says goodbye has ended its lease before."""
        if isinstance(message, Leave) and sender.node == message.node:
            self._out.append(Release(message.node, message.incarnation, message.run))
        return super().received(now, sender, message)

    def replied(
        self, now: int, node: str, request: Message, reply: Message, *, straight: bool = False
    ) -> list[Effect]:
        """See `Automaton.replied`."""
        match request, reply:
            case Prepare() | Accept(), Prepared() | Accepted():
                self._take_vote(now, node, request, reply)
                return self._act(now)
            case Prepare() | Accept(), Failed():
                self._rejected(node, reply.reason)
        return super().replied(now, node, request, reply, straight=straight)

    # --- what follows from an event --------------------------------------------------------------

    def _act(self, now: int) -> list[Effect]:
        if not self._renewing:
            self._pursue(now)
        return super()._act(now)

    def _form(self, now: int) -> None:
        """Nobody is in a view that could take this node in: the electors that are here propose one,
        every one of them where there never was one."""
        base = self.base
        if self.me.node not in base.electors:
            return
        found = [n for n in base.voters if n != self.me.node and self._fresh(n, now)]
        others = [n for n in base.voters if n != self.me.node]
        if base.id == NO_VIEW and len(found) < len(others):
            return
        if any(self._lives_in(base, n) for n in found):
            return  # it can admit this one, as soon as it knows of the view
        waited = now - self._since
        if len(found) < len(others) and waited < self._timing.discovery_time:
            return
        returning = [n for n in found if self._state_of(n) is State.RECONNECTING]
        if returning and waited < 2 * self._timing.discovery_time:
            return  # a majority of them goes on by itself
        if len(found) + (self.me.node in base.voters) < base.majority:
            return
        here = [n for n in self._configured if self._fresh(n, now)]
        ready = [n for n in here if self._state_of(n) in (State.CONNECTING, State.JOINING)]
        first = min([self.me.node, *(n for n in ready if n in base.voters)])
        if self.me.node != first and not self._without:
            return
        joining = [
            msgspec.structs.replace(member, kept=self._detector.known[node].view_id.number > 0)
            for node in ready
            if (member := self._detector.known[node].member) is not None
        ]
        myself = msgspec.structs.replace(self.me, kept=self._highest_held > 0)
        plan = Plan(self._missing(base, {}), (myself, *joining))
        view = self._following(now, plan, base.electors)
        self._decide(now, view, "formed with " + _listed(plan))

    def _lives_in(self, view: View, node: str) -> bool:
        known = self._detector.known[node]
        return known.state == State.JOINED and holds(view, node, known.incarnation)

    def _return(self, now: int) -> None:
        """Was a member: the view holds when a majority holds it, or one who lives in it says so."""
        kept = self.kept
        assert kept is not None, "reconnecting to a view"
        agreeing = {self.me.node}
        for node, known in self._detector.known.items():
            if self._fresh(node, now) and known.view_id == kept.id:
                agreeing.add(node)
                if known.state == State.JOINED and holds(kept, node, known.incarnation):
                    self._restore(now, kept)
                    return
        if len(agreeing.intersection(kept.voters)) >= kept.majority:
            self._restore(now, kept)

    def _govern(self, now: int) -> None:
        """A member: propose the next view if one is due. The lowest living member does it; another
        where that does not get it done in time, or to finish what this elector has accepted."""
        removed = self._removals(now)
        plan = Plan(removed, *self._arrivals(now, removed))
        unfinished = self.accepted > self.view.id.number
        electors = self._next_electors(now, removed)
        same = electors == self.base.electors
        if not plan and not unfinished and same and not self._unsworn(now, electors):
            self._due_since = NEVER
            return
        if self._due_since == NEVER:
            self._due_since = now
        remaining = [node for node in self.view.nodes if node not in removed]
        if self.me.node in removed:  # nothing passes between it and another: others decide
            self._tell(now, min(remaining))
            return
        rank = 0 if self._without else sorted(remaining).index(self.me.node)
        if rank:
            lowest = min(remaining)
            self._tell(now, lowest)
            if self._fresh(lowest, now):  # it may see alive whom this node does not
                removed = {node: each for node, each in removed.items() if each.proven}
                plan = Plan(removed, *self._arrivals(now, removed))
                if not plan and not unfinished and same and not self._unsworn(now, electors):
                    return
        # The first to lack an answer of the electors is no reason for all to compete at once.
        if now - self._due_since >= rank * self._timing.suspect_after:
            told = [node for node in self._leavers if node in removed]
            view = self._following(now, plan, electors)
            self._decide(now, view, _why(plan, self.base.electors, electors), told)

    def _removals(self, now: int) -> dict[str, Removal]:
        """A node that answers as another one lost its store, and may vote all the same."""
        found = {
            node: Removal(removal.how, proven=removal.proven and not self._answers_anew(now, node))
            for node, removal in super()._removals(now).items()
        }
        given_up = self._without.intersection(self._others())
        return found | dict.fromkeys(given_up, Removal("failed", proven=True))

    def _answers_anew(self, now: int, node: str) -> bool:
        member, known = self.view.member(node), self._detector.known.get(node)
        if member is None or known is None or not self._fresh(node, now):
            return False
        return known.incarnation not in ("", member.incarnation)

    def _next_electors(self, now: int, removed: Mapping[str, Removal]) -> tuple[str, ...]:
        """The electors of the next view: those of this one, but for one whom the description wants
        to be added, and when all of those are, for one that it does not have (R2).

        Only where a majority of them has this very description: nodes that were told different
        things would else undo each other's views for ever.
        """
        base, wanted = self.base, self._electors
        same = wanted == base.electors or set(wanted) == set(base.electors)
        if same or not self._agree_on_wish(now):
            return base.electors
        if missing := [node for node in wanted if node not in base.electors]:
            ready = [node for node in missing if self._may_elect(now, node, removed)]
            return (*base.electors, *ready[:1])
        leaving = [node for node in base.electors if node not in wanted]
        gone = min(leaving, key=lambda node: (node in self.view.nodes, node))
        others = tuple(node for node in base.electors if node != gone)
        return others if any(node in base.voters for node in others) else base.electors

    def _agree_on_wish(self, now: int) -> bool:
        voters = self.base.voters
        return sum(self._has_wish(now, node) for node in voters) >= self.base.majority

    def _has_wish(self, now: int, node: str) -> bool:
        if node == self.me.node:
            return True
        known = self._detector.known.get(node)
        same = known is not None and known.description == self._description.hash
        return same and self._fresh(node, now)

    def _may_elect(self, now: int, node: str, removed: Mapping[str, Removal]) -> bool:
        """A member that lives: one that never came would only make a majority harder to have. It
        said since this view is here whether it has votes, so that it is sworn in at once."""
        if node not in self.view.nodes or node in removed or not self._has_wish(now, node):
            return False
        return node == self.me.node or self._detector.known[node].heard > self._installed_at

    def _may_dismiss(self, now: int, node: str) -> bool:
        """When it is no elector any more: too many at once would take the majority with them."""
        return node not in self.base.electors and self._agree_on_wish(now)

    def _compare(self, now: int, node: str, theirs: str) -> None:
        self._detector.node(node, now).description = theirs
        super()._compare(now, node, theirs)

    def _following(self, now: int, plan: Plan, electors: tuple[str, ...]) -> View:
        """The next view, in which who lost its votes is an elector again. The last that counted of
        its electors count on when they are gone, or nobody could ever decide a view after it."""
        base, view = self.base, next_view(self.base, plan)
        if all(node in view.absent for node in electors):
            absent = tuple(node for node in view.absent if node not in base.voters)
            view, electors = msgspec.structs.replace(view, absent=absent), base.electors
        sworn = self._unsworn(now, electors)
        return msgspec.structs.replace(view, electors=electors, sworn=sworn)

    def _unsworn(self, now: int, electors: tuple[str, ...]) -> tuple[tuple[str, str], ...]:
        """Those of the electors that say, since this view is here, that they have no votes."""
        base = self.base
        found = [
            (node, known.blank)
            for node in electors
            if (known := self._detector.known.get(node)) is not None
            and known.blank
            and known.heard > self._installed_at
            and self._fresh(node, now)
        ]
        if self.blank and self.me.node in electors:
            found.append((self.me.node, self.blank))
        return tuple(sorted(set(found) - set(base.sworn)))

    def _told_of_leaving(self, living: list[str]) -> list[str]:
        """Every elector: it must know by itself that this node serves no more."""
        return sorted({min(living), *(set(self.base.electors) - {self.me.node})})

    # --- leases ----------------------------------------------------------------------------------

    def _heard_at(self, now: int) -> int:
        """What so many electors answered that there is a majority, this one included."""
        base = self.kept or self.view
        heard = [
            self._detector.node(node, now).granted for node in base.voters if node != self.me.node
        ]
        if self.me.node in base.voters and not self.blank and self.accepted <= base.id.number:
            heard.append(now)
        heard.sort(reverse=True)
        return heard[base.majority - 1] if len(heard) >= base.majority else NEVER

    def _ping_due(self, now: int) -> None:
        """The electors are asked with every heartbeat, watched or not: leases rest on them."""
        super()._ping_due(now)
        for node in self.base.voters:
            if node != self.me.node and node in self.addresses:
                self._ping_again(now, node)

    # --- proposing -------------------------------------------------------------------------------

    def _decide(self, now: int, view: View, why: str, told: Iterable[str] = ()) -> None:
        """Have this view, or one that was accepted before, decided as the next one."""
        if self._proposal is not None or now < self._next_try:
            return
        self._round += 1
        ballot = (self._round, f"{self.me.node}/{self._life}")
        self._proposal = Proposal(self.base, view, ballot, now)
        self._why, self._told_too = why, set(told)
        self.counts["proposals"] += 1
        self._ask(now)

    def _pursue(self, now: int) -> None:
        """Ask again who did not answer; give up what others have decided, or what does not end."""
        proposal = self._proposal
        if proposal is None:
            return
        stale = now - proposal.begun >= PATIENCE or self._is_alive_after_all(now, proposal)
        if proposal.base != self.base or stale:
            self._give_up(now)
        elif now - proposal.asked_at >= self._timing.heartbeat // (10 if proposal.waits else 2):
            self._ask(now)

    def _is_alive_after_all(self, now: int, proposal: Proposal) -> bool:
        """Whether this node's own proposal leaves out a member that was heard again since."""
        if proposal.adopted or self.state is not State.JOINED:
            return False
        left_out = {*proposal.base.nodes}.difference(proposal.value.nodes)
        return not left_out <= self._removals(now).keys()

    def _ask(self, now: int) -> None:
        proposal = self._proposal
        if proposal is not None:
            proposal.asked_at = now
            timeout = self._timing.suspect_after
            self._out += [Send(node, asked, timeout) for node, asked in proposal.questions()]

    def _take_vote(
        self, now: int, node: str, request: Prepare | Accept, reply: Prepared | Accepted
    ) -> None:
        proposal = self._proposal
        if proposal is None:
            return
        again = proposal.answered(node, request, reply)
        self._round = max(self._round, proposal.highest)
        match proposal.outcome:
            case "decided":
                self._decided(now, proposal)
            case "beaten" | "late":
                self._give_up(now)
            case _ if again:
                self._ask(now)
            case _:
                pass

    def _give_up(self, now: int) -> None:
        """Try again after a time that differs from node to node, so that one of them gets through
        (a proposer alone among the electors always does)."""
        proposal, self._proposal = self._proposal, None
        if proposal is not None and proposal.outcome == "late":
            for node in proposal.base.voters:
                if node != self.me.node:
                    self._ping_again(now, node)  # its answer brings the view
        electors = list(self.base.electors)
        rank = electors.index(self.me.node) if self.me.node in electors else len(electors)
        self._next_try = now + self._timing.heartbeat // 5 * (1 + rank + self._round % 3)

    def _decided(self, now: int, proposal: Proposal) -> None:
        self._proposal = None
        if self.state is State.STOPPED:
            return
        view, before = proposal.value, self.kept or self.view
        if not view.supersedes(before):
            return
        why = "which another node had proposed" if proposal.adopted else self._why
        members = _names(view.nodes)
        self._log(logging.INFO, f"view {view.id.number} is decided ({members}): {why}")
        self._install(now, view)
        targets = {*view.nodes, *view.electors, *before.nodes, *self._told_too}
        targets = (targets & set(self.addresses)) - {self.me.node}
        timeout = self._timing.suspect_after
        self._out += [Send(node, Install(view), timeout) for node in sorted(targets)]

    def _learn(self, now: int, offered: View, *, verified: bool = True) -> None:  # noqa: ARG002
        """A view that somebody holds is decided: there is one chain of them (I20)."""
        held = self.kept or self.view
        if self.state is State.STOPPED or not offered.electors:
            return
        if not offered.supersedes(held) or self._is_foreign(offered.cluster):
            return
        self._install(now, offered)

    def _install(self, now: int, view: View) -> None:
        before = self.kept or self.view
        was = holds(before, self.me.node, self.me.incarnation)
        self._due_since = NEVER
        self._installed_at = now
        self._without = frozenset()
        self._write(view)
        if self.is_member:
            self._entered(now, before)
        elif was:
            self._left_out(now, before)

    def _bring_up_to_date(self, node: str, known: Any) -> None:
        """Who missed a view gets it, in it or not."""
        held = self.kept or self.view
        if held.members and known.view_id < held.id and self.state is not State.STOPPED:
            self._out.append(Send(node, Install(held), self._timing.suspect_after))


def _names(nodes: Iterable[str]) -> str:
    return ", ".join(nodes)


def _listed(plan: Plan) -> str:
    return _names(sorted(member.node for member in plan.added))


def _why(plan: Plan, before: tuple[str, ...], electors: tuple[str, ...]) -> str:
    parts = [f"{node} {removal.how}" for node, removal in sorted(plan.removed.items())]
    parts += [f"{member.node} joins" for member in plan.added]
    parts += [f"{member.node} describes itself anew" for member in plan.updated]
    parts += [f"{node} is an elector" for node in electors if node not in before]
    parts += [f"{node} is no elector any more" for node in before if node not in electors]
    return ", ".join(parts) or "its electors vote again, or finish what one of them had proposed"
