"""The checker itself: it agrees with brute force, and sees what was planted, once per invariant."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import pytest

from sessionha.identity import Epoch, Position
from tests.simulation.brute import explains
from tests.simulation.checker import check
from tests.simulation.events import Copy, Event, EventKind, History, Level, Outcome, Request

CLIENTS = {"I1", "I2", "I3", "I4", "I5", "I6", "I7", "I16"}
"""What can be judged from answers alone, and so by brute force."""

EPOCH = Epoch(1, 1, "n1")


def at(version: int, epoch: Epoch = EPOCH) -> Position:
    return Position(epoch, version)


# --- against brute force -------------------------------------------------------------------------


def small(seed: int) -> History:
    """A few requests of one session, right at first; then, mostly, something is changed."""
    random = Random(seed)
    history = History(nodes=3, backups=1, strict=random.random() < 0.5)
    states: list[frozenset[str]] = [frozenset()]
    keys = [b"k0"]
    removed: set[str] = set()
    for index in range(random.randint(3, 6)):
        request = Request("c", "s", f"m{index}", history.next(), 0.0, key=keys[-1])
        history.requests.append(request)
        version = len(states) - 1
        if version and random.random() < 0.7:
            request.read, request.read_at = at(version), history.next()
            request.seen = tuple(sorted(states[-1]))
            if random.random() < 0.3:
                request.floor = at(random.randint(1, version))
        if random.random() < 0.75:
            _change(random, request, states, keys, removed)
        elif request.read:
            request.outcome = "ok"
        if random.random() < 0.8 or index == 0:
            request.ended = history.next()
    for request in history.requests:
        if request.ended < 0:
            request.ended = history.next()
    for _ in range(random.choice((0, 1, 1, 2))):
        _spoil(random, random.choice(history.requests), len(states))
    return history


def _change(
    random: Random,
    request: Request,
    states: list[frozenset[str]],
    keys: list[bytes],
    removed: set[str],
) -> None:
    outcomes: tuple[Outcome, ...] = ("ok", "ok", "unknown", "dead", "fail")
    request.outcome = random.choice(outcomes)
    state = states[-1]
    if request.read and random.random() < 0.2:
        request.ends, request.begins = request.key, f"k{request.began}".encode()
        after = state
    else:
        request.put = f"s-{request.began}"
        victims = sorted(state - removed) if request.seen else []
        if victims and random.random() < 0.4:
            request.removes = random.choice(victims)
            removed.add(request.removes)
        after = state - {request.removes} | {request.put}
    if request.outcome == "fail" or (request.outcome != "ok" and random.random() < 0.5):
        return
    states.append(after)
    if request.begins:
        keys.append(request.begins)
    if request.outcome == "ok":
        request.position = at(len(states) - 1)


def _spoil(random: Random, request: Request, versions: int) -> None:
    """Change one fact. Whoever removes a token has seen it, so that is left alone."""
    kind = random.randrange(6)
    if kind == 0 and request.seen:
        victims = [token for token in request.seen if token != request.removes]
        if victims:
            lost = random.choice(victims)
            request.seen = tuple(token for token in request.seen if token != lost)
    elif kind == 1 and request.seen is not None:
        token = f"s-{random.randint(1, request.began)}"
        request.seen = tuple(sorted({*request.seen, token}))
    elif kind == 2 and request.read:
        request.read = at(random.randint(1, versions))
    elif kind == 3 and request.position:
        request.position = at(random.randint(1, versions))
    elif kind == 4 and request.changes:
        request.outcome = "fail"
    elif kind == 5:
        request.floor = at(random.randint(1, versions))


@pytest.mark.parametrize("share", range(4))
def test_the_checker_agrees_with_brute_force(share: int) -> None:
    """On random small histories, good and bad ones, both say the same."""
    verdicts = {True: 0, False: 0}
    for seed in range(share * 300, share * 300 + 300):
        history = small(seed)
        found = [finding for finding in check(history) if finding.invariant in CLIENTS]
        good = explains(history)
        verdicts[good] += 1
        assert good == (not found), f"seed {seed}: {found or 'nothing found'}"
    assert min(verdicts.values()) > 50, "both kinds must be there"


# --- planted violations --------------------------------------------------------------------------


def sound() -> History:
    """A history with a bit of everything, in which nothing is wrong."""
    history = History(nodes=3, backups=1, lease=0.5, secrets=("psst!",))
    now = 0.0

    def event(node: str, kind: EventKind, position: Position | None = None) -> None:
        history.events.append(Event(history.next(), now, node, kind, "c.1", position))

    for node in ("n1", "n2", "n3"):
        history.events.append(
            Event(history.next(), now, node, "view", view=(1, "n1"), members=("n1", "n2", "n3"))
        )
    for version in range(1, 5):
        now += 1.0
        request = Request("c", "c.1", "n1", history.next(), now, key=b"a", new=version == 1)
        request.put = f"c.1-{version}"
        if version > 1:
            request.floor = request.read = at(version - 1)
            request.seen = tuple(f"c.1-{done}" for done in range(1, version))
            request.read_at = history.next()
        event("n1", "promote" if version == 1 else "commit", at(version))
        event("n2", "apply", at(version))
        request.position = request.out = at(version)
        request.holders, request.copies = ("n1", "n2"), 1
        request.outcome, request.ended, request.until = "ok", history.next(), now + 0.1
        history.requests.append(request)
    history.quiet_from, history.living = history.next(), 3
    now += 1.0
    last = Request("c", "c.1", "n1", history.next(), now, key=b"a", floor=at(4))
    last.seen = tuple(f"c.1-{done}" for done in range(1, 5))
    last.read, last.read_at, last.out = at(4), history.next(), at(4)
    last.outcome, last.ended, last.until = "ok", history.next(), now
    history.requests.append(last)
    for node in ("n1", "n2"):
        history.copies.append(Copy(node, "c.1", at(4), True, "content"))
    history.levels.append(Level("n1", "bytes", 10, 100))
    history.texts.append("a session was rolled back")
    return history


def repeat(history: History, **changes: object) -> Request:
    """One more read at the end, changed."""
    before = history.requests[-1]
    again = Request("c", "c.1", "n1", history.next(), before.until, key=b"a", floor=at(4))
    again.seen, again.read, again.out = before.seen, at(4), at(4)
    again.read_at, again.outcome = history.next(), "ok"
    again.ended, again.until = history.next(), before.until
    for name, value in changes.items():
        setattr(again, name, value)
    history.requests.append(again)
    return again


def forked(history: History) -> None:
    repeat(history, read=at(2), floor=None, out=None, seen=("c.1-1", "c.1-3"), node="n3")
    history.strict = False


def stale(history: History) -> None:
    repeat(history, read=at(2), floor=at(2), out=at(2), seen=("c.1-1", "c.1-2"), node="n3")


def stale_unseen(history: History) -> None:
    """The position is right, what was acknowledged is not there."""
    history.requests[-1].seen = ("c.1-1", "c.1-2", "c.1-3")


def interleaved(history: History) -> None:
    history.serial = True
    repeat(history, put="c.1-5", position=at(5), out=at(5))
    late = repeat(history, put="c.1-6", position=at(6), out=at(6))
    assert late.read == at(4)


def forgotten(history: History) -> None:
    history.requests = [r for r in history.requests if r.read != at(4)]
    history.strict = False
    repeat(history, read=at(5), out=at(5), seen=("c.1-1", "c.1-2", "c.1-3"), node="n3")


def phantom(history: History) -> None:
    seen = history.requests[-1].seen or ()
    repeat(history, seen=(*seen, "c.1-99"), read=at(5), out=at(5))


def twice(history: History) -> None:
    seen = history.requests[-1].seen or ()
    repeat(history, seen=(*seen, "c.1-1"))


def undone(history: History) -> None:
    history.requests[1].outcome = "fail"


def below(history: History) -> None:
    repeat(history, floor=at(5))


def backwards(history: History) -> None:
    repeat(history, out=at(3), floor=at(3))


def resurrected(history: History) -> None:
    end = repeat(history, ends=b"a", position=at(5), out=at(5))
    end.ended = history.next()
    history.strict = False
    repeat(history, read=at(5), floor=at(5), out=at(5), node="n3")


def served_after_gone(history: History) -> None:
    repeat(history, ends=b"a", outcome="unknown", out=None)
    repeat(history, seen=None, read=None, out=None, outcome="gone")
    repeat(history)


def renewed(history: History) -> None:
    history.strict = False
    repeat(history, ends=b"a", begins=b"b", position=at(5), out=at(5))
    repeat(history, read=at(6), floor=at(5), out=at(6), node="n3")


def amnesia(history: History) -> None:
    repeat(history, seen=None, read=None, out=None, outcome="gone")


def two_committers(history: History) -> None:
    history.events.append(Event(history.next(), 9.0, "n2", "commit", "c.1", at(5)))


def version_twice(history: History) -> None:
    history.events.append(Event(history.next(), 9.0, "n1", "commit", "c.1", at(4)))


def two_views(history: History) -> None:
    history.events.append(
        Event(history.next(), 9.0, "n3", "view", view=(1, "n1"), members=("n2", "n3"))
    )


def decided(history: History, number: int, members: str, joined: tuple[int, ...]) -> None:
    """A view by votes."""
    event = Event(history.next(), 9.0, "n3", "view", view=(number, ""))
    history.events.append(event._replace(members=tuple(members.split()), joined=joined))


def apart(history: History) -> None:
    """The second of two views leaves out whom the third has had since the first."""
    history.agreed, history.events = True, []
    decided(history, 1, "n1 n2 n3", (1, 1, 1))
    decided(history, 3, "n1 n2", (1, 1))
    decided(history, 2, "n1 n3", (1, 1))


def of_one_number(history: History) -> None:
    history.agreed, history.events = True, []
    decided(history, 1, "n1 n2", (1, 1))
    decided(history, 1, "n2 n3", (1, 1))


def no_copy(history: History) -> None:
    history.requests[2].holders = ("n1", "n3")


def fewer_copies(history: History) -> None:
    history.requests[2].copies = 2


def unhealed(history: History) -> None:
    history.copies.pop()


def different(history: History) -> None:
    history.copies[1] = history.copies[1]._replace(content="other")


def mixed_up(history: History) -> None:
    seen = history.requests[-1].seen or ()
    repeat(history, seen=(*seen, "d.1-1"))


def overdue(history: History) -> None:
    since = history.requests[-1].until + history.idle + 5.0
    repeat(history, since=since, until=since)


def too_old(history: History) -> None:
    history.idle = 1e9
    repeat(history, since=history.lifetime + 60.0, until=history.lifetime + 60.0)


def dropped_early(history: History) -> None:
    when = history.requests[3].since + history.idle - 60.0
    repeat(history, seen=None, read=None, out=None, outcome="gone", since=when, until=when)


def old_view(history: History) -> None:
    for node in ("n2", "n3"):
        history.events.append(
            Event(history.next(), 5.2, node, "view", view=(2, "n2"), members=("n2", "n3"))
        )
    repeat(history, since=7.0, until=7.0)


def endless(history: History) -> None:
    repeat(history, seen=None, read=None, out=None, outcome="unavailable", until=90.0, node="n3")
    repeat(history, node="n3")


def overfull(history: History) -> None:
    history.levels.append(Level("n1", "bytes", 101, 100))


def leaked(history: History) -> None:
    history.texts.append("could not store psst!c.1-1")


def older_engine(history: History) -> None:
    history.strict = False
    repeat(history, read=at(3), floor=at(3), out=at(3), seen=("c.1-1", "c.1-2", "c.1-3"))


def refused_for_ever(history: History) -> None:
    repeat(history, seen=None, read=None, out=None, outcome="unavailable", node="n2")


PLANTED: list[tuple[str, Callable[[History], None]]] = [
    ("I1", forked),
    ("I2", stale),
    ("I2", stale_unseen),
    ("I3", forgotten),
    ("I4", phantom),
    ("I4", twice),
    ("I4", undone),
    ("I5", below),
    ("I6", backwards),
    ("I7", resurrected),
    ("I7", served_after_gone),
    ("I8", amnesia),
    ("I9", two_committers),
    ("I9", version_twice),
    ("I9", two_views),
    ("I10", no_copy),
    ("I10", fewer_copies),
    ("I11", unhealed),
    ("I11", different),
    ("I12", mixed_up),
    ("I13", overdue),
    ("I13", too_old),
    ("I13", dropped_early),
    ("I14", old_view),
    ("I15", endless),
    ("I16", renewed),
    ("I17", overfull),
    ("I18", leaked),
    ("I19", older_engine),
    ("I20", apart),
    ("I20", of_one_number),
    ("I21", refused_for_ever),
    ("I22", interleaved),
]


def test_a_sound_history_has_no_finding() -> None:
    assert check(sound()) == []


@pytest.mark.parametrize(("after", "rules"), [(0.1, set()), (-60.0, {"I7", "I13"})])
def test_nodes_may_disagree_for_a_moment_about_an_expiry(after: float, rules: set[str]) -> None:
    """Gone at one node and served at another: at its end that is ε, before it is a violation."""
    history = sound()
    end = max(request.since for request in history.requests if request.position) + history.idle
    gone = repeat(history, seen=None, read=None, out=None, outcome="gone")
    served = repeat(history)
    gone.since = gone.until = end + after
    served.since = served.until = end + after + 0.1
    assert {finding.invariant for finding in check(history)} == rules


@pytest.mark.parametrize(("invariant", "plant"), PLANTED, ids=lambda value: str(value)[:20])
def test_a_planted_violation_is_found(invariant: str, plant: Callable[[History], None]) -> None:
    """Each under its own name; a planted one may break others as well."""
    history = sound()
    plant(history)
    assert invariant in {finding.invariant for finding in check(history)}


def test_every_invariant_has_a_planted_violation() -> None:
    known = {f"I{number}" for number in range(1, 23)}
    assert {invariant for invariant, _ in PLANTED} == known
