"""The invariants of the contract (section 6), checked from a history: pure, O(n log n).

Tokens are unique, and whoever removes one has seen it before, so every effect of a request can be
judged by itself: it is known to be there at some positions and not to be there at others, and all
of the former must lie above all of the latter. No search is needed.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections import defaultdict
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import accumulate
from typing import NamedTuple

from sessionha.identity import NO_POSITION, Position
from tests.simulation.events import Copy, Event, History, Request

NEVER = float("inf")


class Finding(NamedTuple):
    """A broken invariant; `at` is its place in the log."""

    invariant: str
    at: int
    text: str


def check(history: History) -> list[Finding]:
    """Every broken invariant, first things first."""
    checks = ALWAYS + (PROMISED if history.whole else (buried,) if history.kept else ())
    sessions = told(history)
    found = [finding for invariant in checks for finding in invariant(history, sessions)]
    return sorted(found, key=lambda finding: finding.at)


# --- what is known of the effects of requests ----------------------------------------------------


@dataclass
class Effect:
    """A request's changes, which are there or not, together (G5)."""

    request: Request
    there: list[tuple[Position, int, bool]] = field(default_factory=list)
    """(position, known since this place of the log, by an acknowledgement)."""
    absent: list[tuple[Position, int]] = field(default_factory=list)
    """(position, place at which the request that saw this had begun)."""


@dataclass
class Told:
    """Everything that was said of one session tag."""

    requests: list[Request] = field(default_factory=list)
    reads: list[tuple[Request, Position, frozenset[str]]] = field(default_factory=list)
    """Lowest position first."""
    effects: list[Effect] = field(default_factory=list)


Sessions = dict[str, Told]


def told(history: History) -> Sessions:
    """What was said, by session."""
    found: Sessions = defaultdict(Told)
    for request in history.requests:
        mine = found[request.session]
        mine.requests.append(request)
        if request.read is not None and request.seen is not None:
            mine.reads.append((request, request.read, frozenset(request.seen)))
    for mine in found.values():
        mine.reads.sort(key=lambda read: read[1])
        evidence = _Evidence(mine)
        mine.effects = [evidence.of(request) for request in mine.requests if request.changes]
    return found


class _Evidence:
    """Which reads show that a change is there, or that it is not."""

    def __init__(self, mine: Told) -> None:
        self.places = [position for _, position, _ in mine.reads]
        self.began = list(accumulate((read.began for read, _, _ in mine.reads), max))
        seen_at = [read.read_at for read, _, _ in reversed(mine.reads)]
        self.seen_at = list(accumulate(seen_at, min))[::-1]
        self.shown: dict[str | bytes, list[tuple[Position, Request]]] = defaultdict(list)
        for read, position, seen in mine.reads:
            for token in seen:
                self.shown[token].append((position, read))
            self.shown[read.key].append((position, read))

    def of(self, request: Request) -> Effect:
        effect = Effect(request)
        if request.outcome == "ok" and request.position is not None:
            effect.there.append((request.position, request.ended, True))
        for name in (request.put, request.begins):
            for position, read in self.shown.get(name, ()) if name else ():
                effect.there.append((position, read.read_at, False))
        for name in (request.removes, request.ends):
            for position, read in self.shown.get(name, ()) if name else ():
                effect.absent.append((position, read.began))
        if request.put:
            self._before(request.put, effect)
        if request.removes and request.removes in self.shown:
            self._after(request.removes, effect)
        return effect

    def _before(self, token: str, effect: Effect) -> None:
        """States below the first one that has the token do not have it."""
        shown = self.shown.get(token)
        end = bisect_left(self.places, shown[0][0]) if shown else len(self.places)
        if end:
            effect.absent.append((self.places[end - 1], self.began[end - 1]))

    def _after(self, token: str, effect: Effect) -> None:
        """States above the last one that has the token are without it."""
        begin = bisect_right(self.places, self.shown[token][-1][0])
        if begin < len(self.places):
            effect.there.append((self.places[begin], self.seen_at[begin], False))


# --- states --------------------------------------------------------------------------------------


def prefixes(_history: History, sessions: Sessions) -> Iterator[Finding]:
    """I1: states of a session are prefixes of one sequence, and a batch is there or not (G5)."""
    for session, mine in sessions.items():
        for read, _, _ in mine.reads:
            if read.torn:
                yield Finding("I1", read.read_at, f"{session}: half a batch: {sorted(read.torn)}")
        for effect in mine.effects:
            yield from _ordered(session, effect, acknowledged=False)
        yield from _returned(session, mine)


def _ordered(session: str, effect: Effect, *, acknowledged: bool) -> Iterator[Finding]:
    there = [known for known in effect.there if known[2] == acknowledged]
    if not there or not effect.absent:
        return
    first, last = min(there), max(effect.absent)
    if first[0] <= last[0]:
        words = "acknowledged at" if acknowledged else "seen at"
        yield Finding(
            _rule(effect.request, acknowledged),
            max(first[1], last[1]),
            f"{session}: {_name(effect.request)} was {words} {_short(first[0])} and is not in the"
            f" state of {_short(last[0])}",
        )


def _rule(request: Request, acknowledged: bool) -> str:
    if request.begins:
        return "I16"
    if request.ends:
        return "I7"
    return "I3" if acknowledged else "I1"


def _returned(session: str, mine: Told) -> Iterator[Finding]:
    """A token is missing between two states that have it, or later though nobody removed it."""
    removers = {
        request.removes
        for request in mine.requests
        if request.removes and request.outcome != "fail"
    }
    places = [position for _, position, _ in mine.reads]
    shown: dict[str, list[Position]] = defaultdict(list)
    for _, position, seen in mine.reads:
        for token in seen:
            shown[token].append(position)
    for token, having in shown.items():
        begin, end = bisect_left(places, having[0]), bisect_right(places, having[-1])
        if end - begin != len(having):
            place = min(r.read_at for r, _, seen in mine.reads[begin:end] if token not in seen)
            yield Finding("I1", place, f"{session}: {token} went and came back")
        if end < len(places) and token not in removers:
            place = min(read.read_at for read, _, _ in mine.reads[end:])
            yield Finding("I1", place, f"{session}: {token} is gone, nobody removed it")


def real_time(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I2: what was answered before a request began is in what the request sees."""
    if not history.strict:
        return
    for session, mine in sessions.items():
        known = _progress(
            [(r.read_at, r.read) for r, _, _ in mine.reads]
            + [(r.ended, r.position) for r in mine.requests if r.outcome == "ok"]
        )
        for read, position, _ in mine.reads:
            before = known(read.began)
            if position < before:
                yield Finding(
                    "I2",
                    read.read_at,
                    f"{session}: {_short(position)} at {read.node}, after {_short(before)}",
                )
        for effect in mine.effects:
            if not effect.there or not effect.absent:
                continue
            since = min(place for _, place, _ in effect.there)
            began = max(place for _, place in effect.absent)
            if since < began:
                yield Finding(
                    "I2", began, f"{session}: {_name(effect.request)} was there, and is not later"
                )


def _progress(known: list[tuple[int, Position | None]]) -> Callable[[int], Position]:
    """The highest position that was known before a place of the log."""
    places: list[int] = []
    highest: list[Position] = []
    for place, position in sorted((p, q) for p, q in known if q is not None):
        places.append(place)
        highest.append(max(position, highest[-1]) if highest else position)

    def before(place: int) -> Position:
        index = bisect_left(places, place)
        return highest[index - 1] if index else NO_POSITION

    return before


def taking_turns(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I22: where requests take turns, nothing comes between what a request read and its change."""
    if not history.serial:
        return
    for session, mine in sessions.items():
        done = [r for r in mine.requests if r.outcome == "ok" and r.position is not None]
        places = sorted(r.position for r in done if r.position is not None)
        for request in done:
            if request.read is None or request.position is None:
                continue
            between = bisect_left(places, request.position) - bisect_right(places, request.read)
            if between > 0:
                yield Finding(
                    "I22",
                    request.ended,
                    f"{session}: {_name(request)} read {_short(request.read)}, and {between}"
                    f" changes lie between it and {_short(request.position)}",
                )


def stays(_history: History, sessions: Sessions) -> Iterator[Finding]:
    """I3: an acknowledged token stays. I7: nothing after an acknowledged destroy. I16: after a
    renewal the old ID is never valid."""
    for session, mine in sessions.items():
        for effect in mine.effects:
            yield from _ordered(session, effect, acknowledged=True)


def ended_for_good(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I7 and I16, in real time: what was answered as gone is not served to a later request; but
    that one node thinks a session expired, and another does not yet, is what ε allows (I13)."""
    if not history.strict:
        return
    gone: dict[tuple[str, bytes], int] = {}
    for request in sorted(history.requests, key=lambda request: request.ended):
        if request.outcome != "gone" and not request.revoked:
            continue
        if not _may_have_expired(history, sessions[request.session], request):
            gone.setdefault((request.session, request.key), request.ended)
    for request in history.requests:
        since = gone.get((request.session, request.key))
        if request.read is not None and since is not None and since < request.began:
            yield Finding("I7", request.read_at, f"{request.session}: served after it was gone")


def buried(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I7 where two sides have met (available mode): of whatever side a log-out was acknowledged,
    the session is served to nobody after faults stopped."""
    ends = {(each.session, each.ends) for each in history.requests if each.outcome == "ok"}
    for request in history.requests:
        late = request.read is not None and request.began >= history.quiet_from > 0
        if late and request.key and (request.session, request.key) in ends:
            yield Finding("I7", request.read_at, f"{request.session}: served after the sides met")


def phantoms(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I4: no phantom, no duplicate token; what was answered as failed has no effect."""
    puts = {request.put: request for request in history.requests if request.put}
    for request in history.requests:
        for token in sorted(request.seen or ()):
            put = puts.get(token)
            if token.rpartition("-")[0] != request.session:
                continue  # I12
            if put is None or put is request or put.began > request.read_at:
                yield Finding("I4", request.read_at, f"{token} was never sent")
        if request.seen is not None and len(set(request.seen)) != len(request.seen):
            yield Finding("I4", request.read_at, f"{request.session}: a token twice")
    for session, mine in sessions.items():
        for effect in mine.effects:
            if effect.request.outcome == "fail" and effect.there:
                yield Finding(
                    "I4",
                    max(min(place for _, place, _ in effect.there), effect.request.ended),
                    f"{session}: {_name(effect.request)} was answered as never done",
                )


# --- positions -----------------------------------------------------------------------------------


def floors(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I5: nothing below the cookie is served."""
    for request in history.requests:
        served = [position for position in (request.read, request.position) if position]
        if request.floor is not None and served and min(served) < request.floor:
            yield Finding(
                "I5",
                request.ended,
                f"{request.session}: {_short(min(served))} below {_short(request.floor)}",
            )


def monotone(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I6: positions of a jar never decrease: no answer is older than the cookie that asked for it,
    and inside a request the commit is not older than what was read."""
    for request in history.requests:
        steps = [p for p in (request.read, request.position, request.out) if p is not None]
        if steps != sorted(steps) or (
            request.out and request.floor and request.out < request.floor
        ):
            yield Finding("I6", request.ended, f"{request.session}: back to {_short(steps[-1])}")


def engines(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I19: engines of a node never answer from older positions than one of them did before."""
    by_node: dict[tuple[str, str], list[Request]] = defaultdict(list)
    for request in history.requests:
        by_node[request.node, request.session].append(request)
    for (node, session), requests in by_node.items():
        known = _progress([(r.read_at, r.read) for r in requests])
        for request in requests:
            if request.read is not None and request.read < known(request.began):
                yield Finding(
                    "I19",
                    request.read_at,
                    f"{session}: {node} answered {_short(known(request.began))} before"
                    f" {_short(request.read)}",
                )


# --- nodes ---------------------------------------------------------------------------------------


def committers(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I9: one committer an epoch, each version once, and one member list a view."""
    by_epoch: dict[tuple[str, object], str] = {}
    positions: set[tuple[str, Position]] = set()
    views: dict[tuple[int, str], tuple[str, ...]] = {}
    for event in history.events:
        if event.kind == "view" and event.members:
            known = views.setdefault(event.view, event.members)
            if known != event.members:
                yield Finding("I9", event.at, f"two views {event.view}: {known}, {event.members}")
        if event.kind not in ("commit", "promote") or event.position is None:
            continue
        epoch = event.position.epoch
        first = by_epoch.setdefault((event.session, epoch), event.node)
        if first != event.node or epoch.node != event.node:
            yield Finding("I9", event.at, f"{event.session}: {event.node} commits in {epoch}")
        if (event.session, event.position) in positions:
            yield Finding("I9", event.at, f"{event.session}: {_short(event.position)} twice")
        positions.add((event.session, event.position))


def one_chain(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I20: every view descends from every lower one: each number has one view, and who has been a
    member since an earlier one is in all between."""
    if not history.agreed:
        return
    views: dict[int, dict[str, int]] = {}
    for event in history.events:
        if event.kind != "view" or not event.members:
            continue
        number, members = event.view[0], dict(zip(event.members, event.joined, strict=True))
        known = views.setdefault(number, members)
        if known != members:
            yield Finding("I20", event.at, f"two views {number}: {known}, {members}")
        for other in views:
            low, high = sorted((other, number))
            above, below = views[high], views[low]
            since = {name: at for name, at in above.items() if at <= low < high}
            if any(below.get(name) != at for name, at in since.items()):
                text = f"view {high} does not descend from {low}: {below}, {above}"
                yield Finding("I20", event.at, text)


def copies_told(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I10: when a change is acknowledged with d copies, d other nodes have it, unless they lost
    their stores while the request ran."""
    by_session: dict[str, list[Event]] = defaultdict(list)
    losses: dict[str, list[int]] = defaultdict(list)
    for event in history.events:
        if event.kind == "lose":
            losses[event.node].append(event.at)
        elif event.kind in ("commit", "apply", "promote", "drop"):
            by_session[event.session].append(event)
    for session, mine in sessions.items():
        acknowledged = sorted(
            (r for r in mine.requests if r.outcome == "ok" and r.position is not None),
            key=lambda request: request.ended,
        )
        events = by_session[session]
        done = 0
        reached: dict[str, Position] = {}
        for request in acknowledged:
            while done < len(events) and events[done].at < request.ended:
                event, done = events[done], done + 1
                if event.kind != "drop" and event.position is not None:
                    reached[event.node] = max(event.position, reached.get(event.node, NO_POSITION))
            yield from _has_copies(session, request, reached, losses)


def _has_copies(
    session: str, request: Request, reached: dict[str, Position], losses: dict[str, list[int]]
) -> Iterator[Finding]:
    assert request.position is not None
    others = request.holders[1:]
    if len(set(others)) < request.copies:
        yield Finding("I10", request.ended, f"{session}: {request.copies} copies on {others}")
    for node in others:
        lost = bisect_right(losses[node], request.ended) - bisect_left(losses[node], request.began)
        if not lost and reached.get(node, NO_POSITION) < request.position:
            yield Finding(
                "I10", request.ended, f"{session}: {node} lacks {_short(request.position)}"
            )


def healed(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I11: after quiet all copies in C are equal, and there are as many as there should be."""
    by_session: dict[str, list[Copy]] = defaultdict(list)
    for copy in history.copies:
        by_session[copy.session].append(copy)
    wanted = min(history.backups, history.living - 1) + 1
    for session, copies in by_session.items():
        newest = max(copy.position for copy in copies)
        held = [copy for copy in copies if copy.held and copy.position == newest]
        if len(held) < wanted:
            names = [copy.node for copy in held]
            yield Finding("I11", history.place, f"{session}: only {names} have {_short(newest)}")
        if any(copy.content != held[0].content for copy in held[1:]):
            yield Finding("I11", history.place, f"{session}: copies of {_short(newest)} differ")


def views_served(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I14: nobody answers from a lower view than a majority had, for longer than a lease."""
    if history.lease is None:
        return
    installed: dict[str, list[tuple[float, int]]] = defaultdict(list)
    for event in history.events:
        if event.kind == "view":
            installed[event.node].append((event.time, event.view[0]))
    for request in history.requests:
        if request.read is None or request.outcome != "ok":
            continue
        mine = _view_at(installed[request.node], request.until)
        due = request.since - history.lease
        resumed = [end for node, _, end in history.pauses if node == request.node]
        if any(end > due for end in resumed if end <= request.until):
            continue  # it has just woken up
        ahead = sum(
            _view_at(views, due) > mine for node, views in installed.items() if node != request.node
        )
        if 2 * ahead > history.nodes:
            yield Finding("I14", request.ended, f"{request.node} answers in view {mine}")


def _view_at(views: list[tuple[float, int]], time: float) -> int:
    index = bisect_right(views, (time, 1 << 60))
    return views[index - 1][1] if index else 0


# --- ends ----------------------------------------------------------------------------------------


def gone_with_reason(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I8: gone only after a destroy, expiry, or when no copy was left. I13: not before its time."""
    bare = _without_copies(history)
    for session, mine in sessions.items():
        ends: dict[bytes, list[Request]] = defaultdict(list)
        for request in mine.requests:
            if request.ends and request.outcome != "fail":
                ends[request.ends].append(request)
        for request in mine.requests:
            if request.outcome != "gone" and not request.revoked:
                continue
            if any(end.began < request.ended for end in ends[request.key]):
                continue
            if bare.get(session, NEVER) < request.ended:
                continue
            due = _earliest_end(history, mine, request)
            if due is None:
                yield Finding("I8", request.ended, f"{session}: gone without a reason")
            elif request.until < due - history.skew:
                early = due - request.until
                rule = "I13" if request.until > due / 2 else "I8"
                yield Finding(rule, request.ended, f"{session}: gone {early:.1f} s too early")


def _may_have_expired(history: History, mine: Told, request: Request) -> bool:
    if any(end.ends == request.key and end.began < request.ended for end in mine.requests):
        return False  # it was destroyed, or renewed
    due = _earliest_end(history, mine, request)
    return due is not None and request.until >= due - history.skew


def _earliest_end(history: History, mine: Told, asked: Request) -> float | None:
    """When the session may end by itself, as far as was acknowledged before `asked` began."""
    uses = [
        request.since
        for request in mine.requests
        if request.outcome == "ok" and request.position and request.ended < asked.began
    ]
    made = [request.since for request in mine.requests if request.new]
    if not made:
        return None
    return min(max(uses, default=made[0]) + history.idle, made[0] + history.lifetime)


def _without_copies(history: History) -> dict[str, int]:
    """Sessions that had no copy at some place of the log, more than k stores being lost."""
    holding: dict[str, set[str]] = defaultdict(set)
    found: dict[str, int] = {}
    for event in history.events:
        if event.kind in ("commit", "apply", "promote"):
            holding[event.session].add(event.node)
        elif event.kind == "lose":
            for session, nodes in holding.items():
                if event.node in nodes:
                    nodes.discard(event.node)
                    if not nodes:
                        found.setdefault(session, event.at)
        elif event.kind == "drop":
            holding[event.session].discard(event.node)
    return found


def expired(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I13: nothing is served after its deadline and ε."""
    for session, mine in sessions.items():
        made = [request for request in mine.requests if request.new]
        uses = sorted(
            (request.until, request.began)
            for request in mine.requests
            if request.new or request.touched or request.changes
        )
        for request, _, _ in mine.reads:
            since = request.since
            if made and since > made[0].until + history.lifetime + history.skew:
                yield Finding("I13", request.read_at, f"{session}: served after its lifetime")
            last = max(
                (min(until, since) for until, began in uses if began < request.began), default=since
            )
            if since > last + history.idle + history.skew:
                late = since - last - history.idle
                yield Finding("I13", request.read_at, f"{session}: served {late:.1f} s too late")


def tagged(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I12: tokens carry their own session's tag (G8)."""
    for request in history.requests:
        for token in request.seen or ():
            if token.rpartition("-")[0] != request.session:
                yield Finding("I12", request.read_at, f"{request.session} shows {token}")


# --- limits --------------------------------------------------------------------------------------


def bounded(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I15: refusals are bounded in time, pauses of the node itself left out."""
    for request in history.requests:
        if request.outcome in ("fail", "unknown", "unavailable"):
            took = request.until - request.since - request.paused
            if took > history.bound:
                yield Finding(
                    "I15", request.ended, f"{request.session}: refused after {took:.1f} s"
                )


def limited(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I17: memory, sessions and queues stay within their limits."""
    for level in history.levels:
        if level.value > level.limit:
            yield Finding("I17", history.place, f"{level.node}: {level.what} {level.value}")


def no_false_alarm(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I23: where nothing was made to rot, every copy is what its primary has at that position, and
    has what was acknowledged: the drill finds nothing."""
    for event in history.events:
        if event.kind == "alarm" and not 0 <= history.rotten_from <= event.at:
            text = f"{event.session}: the copy on {event.node} is not what it should be"
            yield Finding("I23", event.at, text)


def moved_when_idle(history: History, sessions: Sessions) -> Iterator[Finding]:
    """I24: no copy is moved elsewhere of a session that was changed lately."""
    for event in history.events:
        if event.kind != "move":
            continue
        told = sessions.get(event.session)
        for request in told.requests if told is not None else ():
            lately = event.time - history.lately < request.since < request.until < event.time
            if lately and request.outcome == "ok" and request.position:
                text = f"{event.session}: moved {event.time - request.since:.2f} s after a change"
                yield Finding("I24", event.at, text)


def secretive(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I18: no secret and no value in any log, message or error."""
    for text in history.texts:
        for secret in history.secrets:
            if secret in text:
                yield Finding("I18", history.place, f"{secret!r} in {text[:80]!r}")


def ends_of_refusals(history: History, _sessions: Sessions) -> Iterator[Finding]:
    """I21: after faults stopped every 503 has an end."""
    if history.quiet_from < 0:
        return
    waiting: dict[tuple[str, str], Request] = {}
    for request in sorted(history.requests, key=lambda request: request.ended):
        if request.began < history.quiet_from:
            continue
        refused = request.outcome in ("fail", "unknown", "unavailable") and not request.revoked
        if refused:
            waiting[request.jar, request.node] = request
        else:
            waiting.pop((request.jar, request.node), None)
    for (jar, node), request in waiting.items():
        yield Finding("I21", request.ended, f"{jar} is not served by {node} after faults stopped")


def _name(request: Request) -> str:
    if request.begins:
        return "a renewal"
    return request.put or "a destroy"


def _short(position: Position) -> str:
    epoch = position.epoch
    return f"{epoch.view}.{epoch.attempt}{epoch.node}+{position.version}"


Invariant = Callable[[History, Sessions], Iterator[Finding]]

ALWAYS: tuple[Invariant, ...] = (
    phantoms, committers, one_chain, copies_told, healed, tagged, bounded, limited, secretive,
    ends_of_refusals, no_false_alarm, moved_when_idle,
)  # fmt: skip
"""Also across partitions in available mode."""

PROMISED: tuple[Invariant, ...] = (
    prefixes, real_time, taking_turns, stays, ended_for_good, floors, monotone, engines,
    views_served, gone_with_reason, expired,
)  # fmt: skip
"""Where the living can reach each other, or a majority decides."""
