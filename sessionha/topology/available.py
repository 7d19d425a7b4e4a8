"""The topology automaton of one node, `available` mode: a view's lowest member decides the next."""

from __future__ import annotations

import logging
from collections.abc import Iterable
from typing import Any

import msgspec

from sessionha.identity import NO_VIEW
from sessionha.peer.messages import Install
from sessionha.topology.around import WATCH_ALL
from sessionha.topology.automaton import MEETING, Automaton, names, numbered, reasons
from sessionha.topology.detector import NEVER, Known
from sessionha.topology.effects import Send
from sessionha.topology.members import Plan, accepts, forked, holds, merge, next_view
from sessionha.topology.states import Event, State
from sessionha.view import NO_MEMBERS, Member, View


class AvailableAutomaton(Automaton):
    """See `Automaton`. A node that finds nobody forms a view alone; two sides that meet merge."""

    def __init__(self, *given: Any, **named: Any) -> None:
        super().__init__(*given, **named)
        self._proposed: tuple[View, set[str]] = (NO_MEMBERS, set())
        self._proposed_at = NEVER
        self._met = (NO_VIEW, NEVER)
        """Another side that the lowest of both has not joined yet, and since when it is seen."""

    def _form(self, now: int) -> None:
        """Form a view with everybody who is in none, if this is the lowest of them."""
        waited = now - self._since
        # With many nodes not all of them are looked at.
        many = len(self._description.order or self._found) > WATCH_ALL
        if many and waited < self._timing.discovery_time:
            return
        found = self._found_here(now)
        # A host that refuses may have a node that is starting, with newer data than there is here.
        new = self._highest_held == 0
        settled = self._admission == "static-only" and all(
            n in found or (new and self._detector.refused(n)) for n in self._configured
        )  # what is found is never known to be all there is
        if not settled and waited < self._timing.discovery_time:
            return
        ready = [n for n in found if self._state_of(n) in (State.CONNECTING, State.JOINING)]
        returning = [n for n in found if self._state_of(n) == State.RECONNECTING]
        if returning and waited < 2 * self._timing.discovery_time:
            return  # a view that was kept may hold again within their own discovery time
        if not self._forms(ready, waited):
            return
        others = [m for n in ready if (m := self._detector.known[n].member) is not None]
        kept = {n: self._detector.known[n].view_id.number > 0 for n in ready}
        joining = [msgspec.structs.replace(m, kept=kept[m.node]) for m in others]
        myself = msgspec.structs.replace(self.me, kept=self._highest_held > 0)
        removed = self._missing(self.view, {})
        view = next_view(self.view, Plan(removed, (myself, *joining)), self._highest)
        self._decide(now, view, "formed with " + names(view.nodes))

    def _forms(self, ready: Iterable[str], waited: int) -> bool:
        """Whether it is this node that forms the view: the lowest of those where all meet. Where
        links are broken these may wait for one another: later others may do it."""
        first = sorted({self.me.node, *ready}, key=self._rank)
        rounds = max(waited // self._timing.discovery_time, 1)
        return self.me.node == min(first[: MEETING * rounds])

    def _return(self, now: int) -> None:
        """Was a member: does that view still hold?"""
        kept = self.kept
        assert kept is not None, "reconnecting to a view"
        alive = {self.me.node: self.me.incarnation}
        unknown = []
        for member in kept.members:
            if member.node == self.me.node:
                continue
            known = self._detector.node(member.node, now)
            if self._agrees(now, member, known):
                alive[member.node] = member.incarnation
                if known.state in (State.JOINED, State.LEAVING):
                    self._restore(now, kept)
                    return
            elif not self._is_lost(now, member, known):
                unknown.append(member.node)
        if unknown and now - self._since < self._timing.discovery_time:
            return
        removed = self._missing(kept, alive)
        if not removed:
            self._restore(now, kept)
        elif self.me.node == min(alive):
            view = next_view(kept, Plan(removed), self._highest)
            self._decide(now, view, "went on without " + names(removed))

    def _agrees(self, now: int, member: Member, known: Known) -> bool:
        return (
            self._fresh(member.node, now)
            and known.incarnation == member.incarnation
            and self.kept is not None
            and known.view_id == self.kept.id
        )

    def _is_lost(self, now: int, member: Member, known: Known) -> bool:
        """Whether it answers, and is not what it was. A host that refuses proves nothing: its node
        may have gone on without this one, and be starting again."""
        if not self._fresh(member.node, now):
            return False
        return known.incarnation != member.incarnation or known.state == State.CONNECTING

    def _govern(self, now: int) -> None:
        """A member: decide the next view if it is due and this is the lowest living member."""
        removed = self._removals(now)
        decider = next(node for node in self.view.by_name if node not in removed)
        if decider != self.me.node:
            self._tell(now, decider)
            if not removed:
                self._join_sides(now)
            return
        if self._is_too_soon(now):
            return
        plan = Plan(removed, *self._arrivals(now, removed), barrier=self._needs_barrier(now))
        if plan:
            told = [node for node in self._leavers if node in removed]
            self._decide(now, next_view(self.view, plan, self._highest), reasons(plan), told)
            return
        self._join_sides(now)

    def _join_sides(self, now: int) -> None:
        other = self._side_to_join(now)
        if other is not None:
            live = {n: known.incarnation for n, known in self._detector.known.items()}
            live[self.me.node] = self.me.incarnation
            view = merge(self.view, other, live, self._highest)
            self._decide(now, view, f"met view {other.id.number} ({other.id.lowest})")

    def _needs_barrier(self, now: int) -> bool:
        return any(join.served and self._is_admitted(now, join) for join in self._joins)

    def _side_to_join(self, now: int) -> View | None:
        """Another view in force that nobody of this one is in, if this node must join the two.

        The lowest of both does it; or one that has seen both for a while, for perhaps nothing
        passes between the lowest and the other side.
        """
        seen: View | None = None
        for node in sorted(self._detector.recent):
            known = self._detector.node(node, now)
            if known.view_id == self.view.id:
                continue
            if not self._in_force(now, node, known) or known.view is None:
                continue
            if not forked(self.view, known.view):
                continue
            if known.view_id < self.view.id and holds(self.view, node, known.incarnation):
                continue  # the two are joined already, and it has not heard of that
            if self.me.node == min([*self.view.nodes, *known.view.nodes]):
                return known.view
            seen = seen or known.view
        if seen is None:
            self._met = (NO_VIEW, now)
        elif self._met[0] != seen.id:
            self._met = (seen.id, now)
        elif now - self._met[1] >= self._timing.discovery_time:
            return seen
        return None

    def _bring_up_to_date(self, node: str, known: Known) -> None:
        """A member that missed a view gets it."""
        if self.state is not State.JOINED or known.view_id >= self.view.id:
            return
        if known.state in (State.CONNECTING, State.JOINING):
            return  # its own request to join decides
        if holds(self.view, node, known.incarnation):
            self._out.append(Send(node, Install(self.view), self._timing.suspect_after))

    def _learn(self, now: int, offered: View, *, verified: bool = True) -> None:
        """A view that somebody holds; not `verified`: one that itself is only reconnecting to."""
        self._highest = max(self._highest, offered.id.number)
        before = self.kept or self.view
        returning = self.state is State.RECONNECTING
        if self.state is State.STOPPED:
            return
        if holds(offered, self.me.node, self.me.incarnation):
            if not offered.supersedes(before):
                return
            if returning and not verified:
                self._write(View(id=offered.id), offered)
            else:
                self._write(offered)
                self._entered(now, before)
        elif returning and offered.members:
            if accepts(before, offered, self.me):
                self._write(offered)
                self._left_out(now, before)
            elif verified and forked(before, offered):
                self._write(self.view)
                self._left_out(now, before)
        elif self.is_member and accepts(before, offered, self.me):
            self._write(offered)
            self._left_out(now, before)

    def _decide(self, now: int, view: View, why: str, told: Iterable[str] = ()) -> None:
        """Make `view` the cluster's next one and send it to every member, and to who leaves.

        Only a view's lowest member puts it into force, so that no ID is ever given twice: when a
        lower node joins it must install the view first, and the others follow its word.
        """
        timeout = self._timing.suspect_after
        targets = {*view.nodes, *told} - {self.me.node}
        owner = view.id.lowest
        if owner == self.me.node:
            before = self.view
            self._log(logging.INFO, f"decided view {numbered(view.id)}: {why}")
            self._write(view)
            self._entered(now, before)
            self._out += [Send(node, Install(view), timeout) for node in sorted(targets)]
        elif now - self._proposed_at >= self._timing.heartbeat:
            self._log(logging.INFO, f"proposed view {view.id.number} to {owner}: {why}")
            self._proposed, self._proposed_at = (view, targets - {owner}), now
            self._out.append(Send(owner, Install(view), timeout))

    def _accepted(self, view: View) -> None:
        """The owner of a proposed view put it into force: tell the others."""
        proposed, targets = self._proposed
        self._proposed_at = NEVER
        if proposed == view:
            self._proposed = (NO_MEMBERS, set())
            timeout = self._timing.suspect_after
            self._out += [Send(node, Install(view), timeout) for node in sorted(targets)]

    def _stood_still(self, now: int, stopped: int) -> None:
        """The view must be verified before anything is served under it."""
        for known in self._detector.known.values():
            known.heard = known.asked = NEVER
        self._since = now
        if self.state is State.JOINED and self._others():
            self._log(logging.WARNING, f"stopped for {stopped} ms; checking the view")
            self._move(Event.PAUSED, numbered(self.view.id))
            self._last = self.view
            self._write(View(id=self.view.id), self.view)
